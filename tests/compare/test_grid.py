"""Grid files: what they stand for, and what is refused with which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from compare.tiny_grid import comparison_of, raw_grid

from tapertune.compare.grid import check_grid, load_grid, read_rates
from tapertune.compare.points import points_of
from tapertune.compare.special import compressed_form, run_method
from tapertune.errors import TapertuneError

STUDY = Path(__file__).parents[2] / "benchmarks" / "study"


def refused(root: Path, words: str, rows: Any = ("lora",), **changes: Any) -> None:
    with pytest.raises(TapertuneError, match=words) as error:
        comparison_of(root, rows, **changes)
    assert "\n" not in str(error.value)


def task(root: Path, **changes: Any) -> dict[str, Any]:
    return {"sst2": {**raw_grid(root)["tasks"]["sst2"], **changes}}


def write(file: Path, rows: list[tuple[str, int]]) -> str:
    file.write_text("".join(json.dumps({"sentence": s, "label": label}) + "\n" for s, label in rows), encoding="utf-8")
    return str(file)


NO_RATES: list[Any] = [
    0, [0], [1e-3, 0.0], [-1e-3], [float("inf")], "auto", [], [True],
    {"from": 0, "to": 1e-2, "per_decade": 4}, {"from": 1e-3, "to": 1e-4, "per_decade": 4},
    {"from": 1e-3, "to": 1e-2}, {"from": 1e-3, "to": 1e-2, "per_decad": 4},
]  # fmt: skip


@pytest.mark.parametrize("rates", NO_RATES, ids=str)
def test_rates_that_are_none_are_refused(root: Path, rates: Any) -> None:
    refused(root, "rates", rates=rates)
    refused(root, r"rows\.lora\.rates", {"lora": {"rates": rates}})


def test_a_span_of_rates() -> None:
    rates = read_rates({"from": 1e-4, "to": 5.6e-2, "per_decade": 4}, "rates")
    assert len(rates) == 12 and rates[:2] == [1e-4, 1.8e-4] and rates[-1] == 5.6e-2
    assert read_rates([1e-2, 1e-3], "rates") == [1e-3, 1e-2]


def test_trials_are_equal_spread_and_repeat(root: Path) -> None:
    rows = {"lora": {"search": {"method.r": [2, 4, 8]}}, "head": None}
    grid = check_grid(raw_grid(root, rows, trials=9, rates={"from": 1e-4, "to": 1e-1, "per_decade": 1}))
    points = points_of(grid, "lora")
    assert len(points) == len(points_of(grid, "head")) == 9 and points == points_of(grid, "lora")
    assert {dict(point.changes)["method.r"] for point in points} == {2, 4, 8}
    assert min(p.rate for p in points) < 1e-3 and max(p.rate for p in points) > 1e-2
    comparison = comparison_of(root, rows, trials=3)
    job = comparison.job("lora", "sst2", comparison.points["lora"][0], 1)
    assert job.settings["method"]["r"] == job.method["r"] == dict(job.point.changes)["method.r"]


def test_unknown_names_are_refused_with_the_nearest(root: Path) -> None:
    refused(root, "unknown method 'aflroa': did you mean 'aflora'", ("aflroa",))
    refused(root, "unknown method 'peft-lroa': did you mean 'peft-lora'", ("peft-lroa",))
    refused(root, "unknown task 'sst3': did you mean 'sst2'", tasks={"sst3": {"data": str(root / "data")}})
    refused(root, "unknown setting 'rows.lora.metod'", {"lora": {"metod": "lora"}})
    refused(root, "unknown setting 'seed': did you mean 'seeds'", seed=1)
    refused(root, "unknown reference 'lra': did you mean 'lora'", reference="lra")
    refused(root, "row 'lora'.*unknown.*rr", {"lora": {"method": {"name": "lora", "rr": 3}}})
    refused(root, "row 'x'.*unknown setting of peft-lora 'rr'", {"x": {"method": {"name": "peft-lora", "rr": 3}}})
    refused(root, "unknown task in rows.lora.tasks 'sst': did you mean 'sst2'", {"lora": {"tasks": ["sst"]}})


def test_wrong_values_are_refused(root: Path) -> None:
    refused(root, "seeds", seeds=[1, 1])
    refused(root, "seeds", seeds=[])
    refused(root, "seeds is -1", seeds=[-1])
    refused(root, "best", best=0)
    refused(root, "compressed-lora: to is 9", {"c": {"method": {"name": "compressed-lora", "r": 8, "to": 9}}})
    refused(root, "energy is 2", {"c": {"method": {"name": "compressed-lora", "energy": 2}}})
    refused(root, "search needs trials", {"lora": {"search": {"method.r": [1]}}})
    refused(root, r"base\.seed", base={**raw_grid(root)["base"], "seed": 1})
    refused(root, r"base\.model is missing", base={"training": {}})


def test_an_unknown_column_is_refused(root: Path) -> None:
    own = {"task": "text_classification", "text": "sentenc"}
    files = {"train": str(root / "data" / "train.jsonl"), "test": str(root / "data" / "validation.jsonl")}
    refused(root, "no column 'sentenc': did you mean 'sentence'", tasks={"own": {**own, **files, "selection_rows": 5}})


def test_splits_that_are_empty_or_overlap_are_refused(root: Path, tmp_path: Path) -> None:
    train, test = str(root / "data" / "train.jsonl"), str(root / "data" / "validation.jsonl")
    empty = write(tmp_path / "empty.jsonl", [])
    refused(root, "empty.jsonl is empty", tasks=task(root, data=None, train=train, test=empty))
    refused(root, "empty.jsonl is empty", tasks=task(root, data=None, train=empty, test=test))
    refused(root, "empty.jsonl is empty", tasks=task(root, data=None, train=train, test=test, selection=empty))
    refused(
        root,
        "40 of 40 rows of .*train.jsonl are also in the test",
        tasks=task(root, data=None, train=train, test=train),
    )
    refused(root, "40 of 40 rows of selection .* are also in the test",
            tasks=task(root, data=None, train=train, test=test, selection=test, selection_rows=None))  # fmt: skip
    refused(root, "20 are needed|can be drawn", tasks=task(root, train_rows=4000))
    refused(root, "selection_rows is missing", tasks=task(root, selection_rows=None))
    refused(root, "train and tasks.sst2.test go together", tasks=task(root, data=None, train=train))


def test_rows_are_drawn_apart_and_the_same_again(root: Path) -> None:
    first, again = comparison_of(root), comparison_of(root)
    splits = first.splits["sst2"]
    assert splits == again.splits["sst2"] and splits.counts == {"train": 20, "selection": 8, "test": 40}
    texts = {name: {json.loads(line)["sentence"] for line in path.read_text().splitlines()}
             for name, path in splits.files.items()}  # fmt: skip
    assert not texts["train"] & texts["selection"] and not (texts["train"] | texts["selection"]) & texts["test"]


def test_a_run_is_named_after_what_defines_it(root: Path) -> None:
    def digest(**changes: Any) -> str:
        comparison = comparison_of(root, {"lora": None}, **changes)
        return comparison.job("lora", "sst2", comparison.points["lora"][0], 1).digest

    base = raw_grid(root)["base"]
    names = [digest(), digest(rates=[2e-3]), digest(tasks=task(root, train_rows=19)),
             digest(base={**base, "training": {**base["training"], "num_train_epochs": 2}}),
             digest(stop={"after": 0.5})]  # fmt: skip
    assert len(set(names)) == len(names)
    assert digest() == digest(best=2) == digest(name="other") == digest(seeds=[1])


def test_the_head_is_tuned_by_the_rate_of_rows_without_an_adapter(root: Path) -> None:
    comparison = comparison_of(root, ("lora", "head", "full"))
    heads = {row: comparison.raw[row, "sst2"]["head"] for row in ("lora", "head", "full")}
    assert heads == {"lora": {"learning_rate": 2e-2}, "head": {}, "full": {}}


def test_special_rows_train_a_lora_in_the_same_modules() -> None:
    assert run_method({"name": "compressed-lora", "to": 4}) == {"name": "lora", "r": 32}
    assert run_method({"name": "peft-vera", "r": 64, "target_modules": ["query"]}) == {
        "name": "lora", "target_modules": ["query"],
    }  # fmt: skip
    assert compressed_form({"energy": 0.9}) == {"energy": 0.9} and compressed_form({}) == {"rank": 8}


@pytest.mark.parametrize("file", sorted(STUDY.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_study_s_grids_are_whole(file: Path) -> None:
    grid = load_grid(file)
    assert {len(points_of(grid, row)) for row in grid.rows} == {12} or grid.name != "minilm"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_no_number_of_a_grid_is_none(root: Path, number: float) -> None:
    raw = raw_grid(root)
    for blocks, place in (
        ({"base": {**raw["base"], "training": {"num_train_epochs": number}}}, r"base\.training\.num_train_epochs"),
        ({"base": {**raw["base"], "model": [1, {"a": number}]}}, r"base\.model\.a"),
        ({"rows": {"lora": {"method": {"name": "lora", "dropout": [number]}}}}, r"rows\.lora\.method\.dropout"),
    ):
        with pytest.raises(TapertuneError, match=f"{place} is .*; it must be a finite number"):
            check_grid({**raw, **blocks})
    endless = {**raw["base"], "training": {"max_grad_norm": float("inf")}}
    assert json.dumps(check_grid({**raw, "base": endless}).base, allow_nan=False)
