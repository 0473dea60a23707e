from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tapertune.errors import TapertuneError
from tapertune.report import load_run, load_runs

Grid = dict[str, list[int]]
MakeRun = Callable[..., Path]


def test_the_heatmap_of_the_paper(aflora: MakeRun, rte_grid: Grid) -> None:
    heatmap = load_run(aflora()).heatmap
    assert heatmap is not None
    assert heatmap.rows == ("out.B", "inter.B", "out.A", "inter.A")
    assert heatmap.layers == tuple(range(12))
    assert heatmap.values == tuple(tuple(rte_grid[row]) for row in heatmap.rows)
    assert sum(len(row) for row in heatmap.values) == 48
    assert heatmap.steps == (60, 170)
    assert heatmap.names[0][3] == "base_model.model.deberta.encoder.layer.3.output.dense.tapertune_aflora_B.default"


def test_the_average_of_the_paper(aflora: MakeRun, rte_grid: Grid) -> None:
    """83,232 parameters of vectors train to the end, and each matrix of rank 4 until the step of the figure."""
    sizes = {"out.B": 4 * 768, "inter.B": 4 * 3072, "out.A": 4 * 3072, "inter.A": 4 * 768}
    by_hand = 83_232 + sum(step * sizes[row] for row, steps in rte_grid.items() for step in steps) / 780
    curve = load_run(aflora()).curve
    assert curve.average == pytest.approx(by_hand, rel=1e-12)
    assert round(curve.average) == 132_660
    assert (curve.start, curve.end) == (451_872, 83_232)
    # The matrices take 368,640 parameters once more if they still take the step at which they freeze.
    late = load_run(aflora("late", final_update=True)).curve
    assert late.average == pytest.approx(by_hand + 368_640 / 780, rel=1e-12)


def test_a_finished_run(aflora: MakeRun) -> None:
    run = load_run(aflora())
    assert (run.name, run.status, run.complete, run.notice) == ("aflora-rte", "done", True, None)
    assert (run.method, run.model, run.task, run.seed) == ("aflora", "deberta-v3-base", "rte", 42)
    assert run.score is not None and run.score.interval == (0.8374, 0.9139)
    assert run.head_parameters == 1538
    assert (len(run.losses), len(run.evaluations), run.metric) == (78, 10, "accuracy")
    assert run.number("time", "train_seconds") == 200.4
    assert run.number("memory", "peak_cuda_bytes") is None
    assert run.number("no", "such") is None
    assert run.section("settings")["training"]["learning_rate"] == 0.01


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ("running", "has not ended"),
        ("interrupted", "was interrupted"),
        ("failed", "failed at"),
        ("odd", "status 'odd'"),
    ],
)
def test_an_unfinished_run_says_so(aflora: MakeRun, status: str, says: str) -> None:
    run = load_run(aflora(stop=115, status=status, score=None, time=None))
    assert not run.complete
    assert run.notice is not None and says in run.notice
    assert "step 111 of 780" in run.notice
    assert run.score is None
    assert run.heatmap is not None and run.heatmap.frozen == 30
    assert run.curve.length == 111


def test_a_running_run_that_was_cut_in_the_middle_of_a_line(aflora: MakeRun) -> None:
    folder = aflora(stop=115, status="running")
    with (folder / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"v":1,"type":"fre')
    assert load_run(folder).curve.length == 111


def test_lora_has_no_heatmap(lora: MakeRun) -> None:
    run = load_run(lora())
    assert run.heatmap is None
    assert run.curve.values == (1_327_104,)
    assert run.curve.average == 1_327_104


def test_only_factors_that_the_policy_names_are_shown(aflora: MakeRun) -> None:
    folder = aflora(stop=1)
    path = folder / "events.jsonl"
    text = path.read_text(encoding="utf-8").replace('"plan":{', '"plan":{"policy":{"kind":"x","factors":["A"]},')
    path.write_text(text, encoding="utf-8")
    heatmap = load_run(folder).heatmap
    assert heatmap is not None and heatmap.rows == ("out.A", "inter.A")


def test_a_record_of_the_beginning_is_enough(aflora: MakeRun) -> None:
    folder = aflora(stop=5)
    (folder / "run.json").write_text('{"schema_version": 1, "status": "running"}', encoding="utf-8")
    run = load_run(folder)
    assert (run.name, run.method, run.model, run.seed) == ("aflora-rte", "aflora", None, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"schema_version": 2}', "schema 2; this tapertune reads up to 1"),
        ('{"status": "done"}', "no schema_version"),
        ("[]", "no schema_version"),
        ("{", "not JSON"),
        ('{"schema_version": 1, "score": 3}', "score is 3"),
        ('{"schema_version": 1, "score": {"metric": "f1", "value": "high"}}', "score is"),
    ],
)
def test_bad_records(aflora: MakeRun, text: str, says: str) -> None:
    folder = aflora(stop=1)
    (folder / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(TapertuneError, match=says):
        load_run(folder)


@pytest.mark.parametrize("name", ["run.json", "events.jsonl"])
def test_a_missing_file_is_named(aflora: MakeRun, name: str) -> None:
    folder = aflora(stop=1)
    (folder / name).unlink()
    with pytest.raises(TapertuneError, match=f"{name}.*No such file"):
        load_run(folder)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(TapertuneError, match="there is no such folder"):
        load_run(tmp_path / "absent")
    with pytest.raises(TapertuneError, match="no run folder given"):
        load_runs([])


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "training had not begun"),
        (["start", "start"], "2 start events"),
        (["bad start"], "factors are not listed"),
        (["newer"], "event schema 2"),
    ],
)
def test_bad_events(aflora: MakeRun, lines: list[str], says: str) -> None:
    folder = aflora(stop=1)
    start = json.loads((folder / "events.jsonl").read_text(encoding="utf-8").splitlines()[0])
    kinds = {"start": start, "bad start": start | {"factors": [{"name": "x"}]}, "newer": start | {"v": 2}}
    text = "".join(json.dumps(kinds[line]) + "\n" for line in lines)
    (folder / "events.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(TapertuneError, match=says):
        load_run(folder)


def test_a_number_that_is_none_is_named_and_left_out(aflora: MakeRun) -> None:
    run = load_run(aflora(stop=1, adapter_bytes="large"))
    assert any("adapter_bytes" in fault and "'large'" in fault for fault in run.faults)
    assert run.number("adapter_bytes") is None
