"""The report of a grid on made-up records: what it says, and what it does not say yet."""

from __future__ import annotations

from pathlib import Path

from compare.records import record_for
from compare.tiny_grid import comparison_of

from tapertune.compare.jobs import Comparison
from tapertune.compare.report import report_sections, write_report
from tapertune.compare.store import Store


def store_of(root: Path, scores: dict[str, float], **changes: object) -> tuple[Comparison, Store]:
    """A store with two rates and three seeds of each row, the first of lora's rates diverged."""
    comparison = comparison_of(root, tuple(scores), seeds=[1, 2, 3], best=1, **changes)
    store = Store(root / "store")
    store.prepare(comparison)
    for row, score in scores.items():
        low, high = comparison.points[row]
        lost = None if row == "lora" else score - 0.1
        made = [record_for(comparison, row, "sst2", low, 1, selection=lost, test=score - 0.1)]
        made += [record_for(comparison, row, "sst2", high, seed, selection=score, test=score + 0.004 * seed)
                 for seed in (1, 2, 3)]  # fmt: skip
        for record in made:
            store.write(record.model_dump(mode="json"))
    return comparison, store


def test_better_is_said_only_where_the_records_show_it(root: Path) -> None:
    comparison, store = store_of(root, {"lora": 0.7, "aflora": 0.9, "head": 0.7})
    _, (scores, task, made) = report_sections(comparison, store)
    arrows = {row[0]: row[1][-1] for row in scores.rows}
    assert arrows["aflora"] == "↑" and arrows["head"] == "]"
    assert {row[0]: row[-1] for row in scores.rows}["lora"] == "reference"
    gaps = {row[0]: row[4] for row in task.rows}
    assert gaps["aflora"].endswith(": better") and gaps["head"].endswith(": tie")
    assert "lora at 1e-3" in task.notes[1]
    assert made.rows[0][1] == "12 of at most 12"


def test_the_rule_s_rate_is_marked_and_pages_are_written(root: Path) -> None:
    comparison, store = store_of(root, {"lora": 0.7, "aflora": 0.9})
    pages = write_report(comparison, store, root / "report", rule=lambda record: 3e-3)
    html, markdown = (page.read_text(encoding="utf-8") for page in pages)
    assert "aflora: the rule" in html and "regret 5" in html and "Learning rates on sst2" in markdown
    assert {path.suffix for path in (root / "report").iterdir()} == {".html", ".md", ".svg"}
    assert "the rule" not in write_report(comparison, store, root / "plain")[0].read_text(encoding="utf-8")


def test_what_is_not_run_yet_is_said(root: Path) -> None:
    comparison, store = store_of(root, {"lora": 0.7, "aflora": 0.9})
    store = Store(root / "part")
    store.prepare(comparison)
    point = comparison.points["aflora"][0]
    store.write(record_for(comparison, "aflora", "sst2", point, 1, selection=0.5, test=0.5).model_dump(mode="json"))
    _, sections = report_sections(comparison, store)
    states = {row[0]: row[1] for row in sections[1].rows}
    assert states == {"lora": "0 of 2 points screened", "aflora": "1 of 2 points screened"}
    assert sections[0].rows == []


def test_times_are_of_one_machine(root: Path) -> None:
    comparison, store = store_of(root, {"lora": 0.7})
    other = {"cpu": "that", "device": "cpu", "dtype": "float32", "threads": 1}
    high = comparison.points["lora"][1]
    slow = record_for(comparison, "lora", "sst2", high, 3, selection=0.7, test=0.7, train_seconds=900.0, machine=other)
    store.write(slow.model_dump(mode="json"))
    _, sections = report_sections(comparison, Store(store.folder))
    assert sections[1].rows[0][7] == "3.0 s"
    assert "that" in sections[2].rows[2][1] and sections[2].rows[3][1].startswith("this")
