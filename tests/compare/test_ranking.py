from __future__ import annotations

from pathlib import Path

import pytest
from compare.records import record_for
from compare.tiny_grid import comparison_of

from tapertune.compare.ranking import measured_scores
from tapertune.compare.store import Store
from tapertune.errors import TapertuneError


def test_a_method_has_the_test_score_of_what_selection_chooses(root: Path) -> None:
    comparison, store = comparison_of(root), Store(root / "store")
    store.prepare(comparison)
    row = next(iter(comparison.points))
    low, high = comparison.points[row][0], comparison.points[row][-1]
    for point, selection, test in ((low, 0.6, 0.9), (high, 0.8, 0.7)):
        record = record_for(comparison, row, "sst2", point, 1, selection=selection, test=test)
        store.write(record.model_dump(mode="json"))
    for task, tasks in (("sst2", ("sst2",)), ("mnli", ("sst2",))):  # nothing is known of the second
        (found,) = measured_scores(root / "store", task).values()
        assert (found.row, found.tasks, found.runs) == (row, tasks, 1)
        assert found.value == (0.9 if low == high else 0.7)


def test_a_folder_that_is_no_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(TapertuneError, match=r"--store '.*' is no store: it has no store.json"):
        measured_scores(tmp_path, "sst2")
