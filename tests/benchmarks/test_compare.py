"""The comparison's choices, its tables and its resumption, on a handful of made-up records."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tapertune.errors import TapertuneError
from tapertune.train.prepare import prepare

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RATES = (1e-4, 1e-3, 1e-2)
GRIDS = {"lora": RATES, "full": RATES, "aflora": RATES}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a script's module; they find each other in their own folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def record(method: str, rate: float, seed: int, selection: float | None, test: float | None, **others: Any) -> Any:
    counts = {"start": 1000, "average": 600.4, "end": 200} if method == "aflora" else dict.fromkeys(
        ("start", "average", "end"), 1000
    )  # fmt: skip
    made = {"task": "rte", "method": method, "rate": rate, "seed": seed, "selection": selection, "test": test}
    return {**made, "parameters": counts, "flops": 2e12, "train_cpu_seconds": 10.0 * seed, **others}


def lora_records() -> list[Any]:
    grid = [record("lora", rate, 1, *scores) for rate, scores in zip(RATES, [(0.5, 0.9), (0.7, 0.6), (None, None)],
                                                                     strict=True)]  # fmt: skip
    return [*grid, record("lora", 1e-3, 2, 0.2, 0.61), record("lora", 1e-3, 3, 0.1, 0.65)]


def test_the_rate_is_chosen_by_the_selection_score_and_never_by_the_test(module: Any) -> None:
    table = module("compare_table")
    assert table.chosen_rate(lora_records(), "rte", "lora", RATES) == 1e-3  # tests best at 1e-4, where 0.9 is
    assert table.chosen_rate(lora_records()[:2], "rte", "lora", RATES) is None  # the grid is not complete
    even = [record("full", rate, 1, 0.5, rate) for rate in reversed(RATES)]
    assert table.chosen_rate(even, "rte", "full", RATES) == 1e-4
    later = [*even, record("full", 1e-2, 2, 0.99, 0.99)]  # another seed's selection score says nothing
    assert table.chosen_rate(later, "rte", "full", RATES) == 1e-4


def test_a_diverged_run_is_never_chosen(module: Any) -> None:
    table = module("compare_table")
    bad = [record("lora", rate, 1, None, None) for rate in RATES]
    assert table.chosen_rate(bad, "rte", "lora", RATES) is None
    assert table.runs_left(bad, "rte", "lora", RATES) == []
    assert "| all diverged |" in table.overview(bad, ["rte"], {"lora": RATES})


def test_what_is_recorded_is_not_run_again(module: Any, tmp_path: Path) -> None:
    table, runs = module("compare_table"), module("compare_runs")
    file, made = tmp_path / "results" / "runs.jsonl", lora_records()
    order = []
    while left := table.runs_left(table.read_records(file), "rte", "lora", RATES):
        order.append((left[0].rate, left[0].seed))
        (found,) = [one for one in made if table.run_of(one) == left[0]]
        runs.append(file, found)
    assert order == [(1e-4, 1), (1e-3, 1), (1e-2, 1), (1e-3, 2), (1e-3, 3)]
    assert table.read_records(file) == made
    assert len(table.runs_left(made, "rte", "full", RATES)) == 3  # another method's records do not count
    assert len(table.runs_left(made, "sst2", "lora", RATES)) == 3


def test_records_of_other_sizes_are_left_aside(module: Any) -> None:
    runs = module("compare_runs")
    sizes = dict(vars(runs.TASKS["rte"]))
    new, old = record("lora", 1e-3, 1, 0.5, 0.5, sizes=sizes), record("lora", 1e-3, 1, 0.9, 0.9, sizes={"train": 1})
    assert runs.of_these_sizes([old, new]) == [new]


def test_the_tables_are_exact(module: Any) -> None:
    table = module("compare_table")
    aflora = [record("aflora", rate, 1, 0.5 + rate, 0.5) for rate in RATES]
    records = [*lora_records(), *aflora, record("full", 1e-4, 1, 0.5, 0.5)]
    assert table.overview(records, ["rte", "sst2"], GRIDS) == (
        "| method | rte |\n| --- | --- |\n| lora | 62.0 ± 2.6 |\n| full | not run |\n| aflora | 50.0 (1 of 3 seeds) |\n"
    )
    assert table.details(records, "sst2", GRIDS) == "Not run yet.\n"
    assert table.details(records, "rte", GRIDS).splitlines()[2:] == [
        "| lora | 1e-4: 50.0, 1e-3: 70.0, 1e-2: diverged | 1e-3 | 62.0 ± 2.6 | 1,000 | 2.00 | 20 |",
        "| full | 1e-4: 50.0, 1e-3: not run, 1e-2: not run |  | not run |  |  |  |",
        "| aflora | 1e-4: 50.0, 1e-3: 50.1, 1e-2: 51.0 | 1e-2 | 50.0 (1 of 3 seeds) | 1,000, 600, 200 | 2.00 | 10 |",
    ]


def test_a_shard_runs_its_methods_and_again_only_what_is_not_recorded(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = module("compare_runs")
    file, done = tmp_path / "runs.jsonl", []
    sizes = dict(vars(runs.TASKS["rte"]))

    def perform(run: Any, *given: Any) -> Any:
        done.append(run)
        return {**record(run.method, run.rate, run.seed, 0.5, 0.5, sizes=sizes), "task": run.task}

    monkeypatch.setattr(runs, "perform", perform)
    monkeypatch.setattr(runs, "samples", lambda *given: None)
    runs.append(file, {**record("full", runs.GRIDS["full"][0], 1, 0.5, 0.5, sizes=sizes), "task": "rte"})
    for _ in range(2):  # the second finds everything recorded
        runs.run_all(tmp_path, ["rte"], (1, 2), tmp_path / "scratch", file)
    assert {run.method for run in done} == set(list(runs.GRIDS)[1::2])
    lowest = min(runs.GRIDS["full"])  # equal selection scores: the smallest rate is taken
    full = [(run.rate, run.seed) for run in done if run.method == "full"]
    assert full == [*((rate, 1) for rate in runs.GRIDS["full"][1:]), (lowest, 2), (lowest, 3)]


def test_the_arithmetic_table_is_exact(module: Any) -> None:
    table = module("compare_arithmetic").arithmetic_table
    scores = {"metrics": {"loss": 1.2344, "answer_accuracy": 0.25}, "interval": [0.1, 0.4]}
    trained = {"rate": 1e-3, "parameters": {"start": 9, "average": 9.0, "end": 9}, "flops": 1e12}
    rows = table([{"method": "untrained", **scores}, {"method": "lora", **scores, **trained, "train_cpu_seconds": 5}])
    assert rows.splitlines()[2:] == [
        "| untrained |  | 1.234 | 25.0 (10.0 to 40.0) | 0 |  |  |",
        "| lora | 1e-3 | 1.234 | 25.0 (10.0 to 40.0) | 9 | 1.00 | 5 |",
        "| aflora |  |  | not run |  |  |  |",
    ]


def test_samples_share_no_text_with_each_other_or_the_test(module: Any) -> None:
    draw = module("compare_runs").draw
    rows = [{"a": str(number % 40), "label": number} for number in range(80)]  # every text twice
    train, selection = draw(rows, ["a"], [{"a": "7"}], [20, 19])
    texts = [row["a"] for row in [*train, *selection]]
    assert (len(train), len(selection)) == (20, 19)
    assert len(set(texts)) == 39 and "7" not in texts
    assert draw(rows, ["a"], [{"a": "7"}], [20, 19]) == [train, selection]
    with pytest.raises(TapertuneError, match="39 training rows can be drawn; 40 are needed"):
        draw(rows, ["a"], [{"a": "7"}], [20, 20])


def test_every_cell_has_a_recipe_and_a_rate_from_its_grid(module: Any, tmp_path: Path) -> None:
    table, runs = module("compare_table"), module("compare_runs")
    files = (tmp_path / "train.jsonl", tmp_path / "selection.jsonl")
    for task, sizes in runs.TASKS.items():
        for method, rates in runs.GRIDS.items():
            assert len(rates) == 3
            run = table.Run(task=task, method=method, rate=rates[1], seed=2)
            settings = runs.settings_of(run, files, tmp_path)
            trained = "lora" if method == "peft-lora" else method
            assert (settings.method.name, settings.task.name, settings.seed) == (trained, task, 2)
            assert settings.training["learning_rate"] == rates[1]
            assert settings.task.max_length == sizes.max_length


def test_pefts_lora_differs_from_ours_in_nothing_but_whose_it_is(module: Any, tmp_path: Path) -> None:
    table, runs, by_peft = (module(name) for name in ("compare_table", "compare_runs", "compare_peft"))
    rows = [{"sentence": text, "label": label} for text, label in [("good", 1), ("bad", 0), ("fine", 1), ("dull", 0)]]
    files = (runs.write_rows(tmp_path / "train.jsonl", rows), runs.write_rows(tmp_path / "selection.jsonl", rows))
    run = table.Run(task="sst2", method="peft-lora", rate=1e-3, seed=1)
    settings = runs.settings_of(run, files, tmp_path / "run")
    prepared = prepare(settings)
    ours, theirs = prepared.built, by_peft.with_peft(prepared)
    mine, other = (dict(built.model.named_parameters()) for built in (ours, theirs))
    assert type(theirs.model.base_model).__name__ == "LoraModel"
    assert set(ours.head) == set(theirs.head)
    assert all(torch.equal(mine[name], other[name]) for name in ours.head)
    assert sum(mine[name].numel() for name in ours.adapter) == sum(other[name].numel() for name in theirs.adapter)
    assert theirs.model.peft_config["default"].lora_alpha == 16
    found = by_peft.scores(settings, files[1], runs.CpuClock())
    assert found["steps"] == 3 and found["parameters"]["end"] == 331_776
    assert 0 <= found["selection"] == found["test"] <= 1


def test_the_page_is_filled_between_its_markers(module: Any) -> None:
    compare = module("compare")
    text = "a\n<!-- rte:start -->\nold\n<!-- rte:end -->\nb"
    assert compare.filled(text, "rte", "new\n") == "a\n<!-- rte:start -->\n\nnew\n\n<!-- rte:end -->\nb"
    with pytest.raises(AssertionError, match="two markers of sst2"):
        compare.filled(text, "sst2", "new\n")
    with pytest.raises(TapertuneError, match="--shard"):
        compare.shard("2/2")
