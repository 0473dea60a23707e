from __future__ import annotations

from benchmark.show.made import session

from tapertune.benchmark.show.markdown import PARTS, comparison, everything, full_runs, growths, machine
from tapertune.benchmark.show.terminal import tables
from tapertune.benchmark.variants import VARIANTS


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|\n").split("|")]


def test_a_method_beside_its_rival_and_its_targets() -> None:
    line = next(line for line in comparison(session()).splitlines() if line.startswith("| LoRA r=8 |"))
    assert cells(line) == [
        "LoRA r=8", "1.01 [1.00-1.03], +54 MB", "1.01 [1.00-1.03], +54 MB", "1.12; 1.07; +3 MB",
        "1.10 [1.09-1.12], +54 MB", "1.10 [1.09-1.12], +54 MB", "-",
    ]  # fmt: skip


def test_the_pruned_model_is_held_against_the_built_one() -> None:
    line = next(line for line in comparison(session()).splitlines() if line.startswith("| AdaLoRA, pruned"))
    assert cells(line)[3:5] == ["3% beyond a model built at those ranks", "1.13 [1.12-1.15], +54 MB; -0.9%"]


def test_everything_has_a_line_for_each_subject() -> None:
    text = everything(session())
    assert text.count("the floor: 500 ms, 100 MB saved for backward") == 2
    assert all(text.count(f"| {row.what} |") == 2 for row in VARIANTS.values())
    assert "| +0 | 2.00 | - | 3 | 1.0% |" in text


def test_growth_and_runs() -> None:
    made = session()
    assert "| bert-12x768 | 72 | 16.2 | 4.5 |" in growths(made.growths)
    assert "| 30 | 1.50 [1.49-1.52] | 1.30 [1.29-1.32] | 100 | 98 |" in full_runs(made.tapers)


def test_says_where_it_was_measured() -> None:
    assert machine(session()) == (
        "Measured with: cpu, float32, 1 thread, 8 x 128 tokens, CPU time; a cpu; torch 2.13, transformers 5.23,"
        " peft 0.21; commit c0ffeec0ff with uncommitted changes.\n"
    )


def test_tables_are_even() -> None:
    for part in PARTS.values():
        for block in part(session()).split("\n\n"):
            assert len({len(cells(line)) for line in block.splitlines() if line.startswith("|")}) <= 1


def test_terminal_has_a_row_for_each_subject_asked_for() -> None:
    [table] = tables(session(), ["bert-6x384"], ["floor", "ours-lora"])
    assert table.row_count == 2
