from __future__ import annotations

from tapertune.benchmark.base_models import MODELS
from tapertune.benchmark.show.comparison import COMPARISON
from tapertune.benchmark.variants import VARIANTS


def test_rows_name_subjects_and_models_that_exist() -> None:
    for row in COMPARISON:
        named = {row.ours, row.theirs or row.ours, row.within[0] if row.within else row.ours}
        assert named <= set(VARIANTS)
        assert {*row.ratio, *row.megabytes} <= set(MODELS)


def test_every_subject_of_ours_and_of_others_has_a_row() -> None:
    shown = {name for row in COMPARISON for name in (row.ours, row.theirs, row.within[0] if row.within else None)}
    assert {name for name in VARIANTS if name != "floor"} <= shown
