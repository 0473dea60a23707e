"""What an earlier version wrote is read: adapters, checkpoints, run folders, events, run files, the environment.

``written_before/README.md`` says what the files are. Nothing here imports a module of tapertune's insides.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from written_before.cases import ADAPTERS, FILES, RUNS, SAVED, STEPS, TRAINED, base, logits, trainer

import tapertune
from tapertune.cli.main import main
from tapertune.events import read_events

CLOSE = {"atol": 1e-5, "rtol": 1e-5}  # another machine rounds otherwise
CHECKPOINT = f"checkpoint-{SAVED}"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a copy of the base model and the data that files name by relative paths."""
    for name in ("base", "data"):
        shutil.copytree(FILES / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def old_spellings() -> Iterator[None]:
    """Old spellings may be warned of, and no more than that."""
    with warnings.catch_warnings():
        for category in (UserWarning, FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)
        yield


def load_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command prints; it must end well."""
    code = main(list(arguments))
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def check_weights(folder: Path, expected: Path) -> None:
    """The same tensors, and of an adapter the same frozen factors and ranks."""
    adapter = (expected / "adapter_config.json").is_file()
    file = "adapter_model.safetensors" if adapter else "model.safetensors"
    torch.testing.assert_close(load_file(folder / file), load_file(expected / file), **CLOSE)
    if adapter:
        new, old = (load_json(each / "adapter_config.json") for each in (folder, expected))
        assert frozen(new) == frozen(old)
        assert new["ranks"] == old["ranks"]


def frozen(facts: dict[str, Any]) -> dict[str, set[str]]:
    return {module: set(factors) for module, factors in facts["frozen"].items()}


def check_events(file: Path, expected: Path) -> None:
    """The same decisions at the same steps; numbers as near as rounding leaves them. Fields may have been added."""
    new, old = read_events(file), read_events(expected)
    assert [(event["type"], event["step"]) for event in new] == [(event["type"], event["step"]) for event in old]
    for mine, event in zip(new[1:], old[1:], strict=True):  # the start is of the version that wrote it
        for key in {*event} - {"folded", "metrics", "names"}:
            expected_value = event[key]
            if isinstance(expected_value, float):
                expected_value = pytest.approx(expected_value, rel=1e-3, abs=1e-6)
            assert mine[key] == expected_value, (event["type"], event["step"], key)
        assert set(mine.get("names", ())) == set(event.get("names", ()))
        assert mine.get("metrics", {}) == pytest.approx(event.get("metrics", {}), abs=1e-4)


def test_every_method_of_that_time_is_there() -> None:
    methods = {"lora", "aflora", "adalora", "lora2", "loran", "sora", "elora"}
    for names, folder in ((ADAPTERS, "adapters"), (TRAINED, "trained"), (RUNS, "runs")):
        assert {case.method for case in names.values()} >= methods
        assert {path.name for path in (FILES / folder).iterdir()} == set(names)


# ---- adapters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_loads_merges_and_is_inspected(
    name: str, place: Path, old_spellings: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = FILES / "adapters" / name
    record = load_json(folder / "expected.json")
    expected = torch.tensor(record["logits"])
    model = PeftModel.from_pretrained(base("base"), str(folder))
    assert (logits(base("base")) - expected).abs().max() > 1e-2, "an adapter that changes nothing tests nothing"
    torch.testing.assert_close(logits(model), expected, **CLOSE)
    torch.testing.assert_close(logits(model.merge_and_unload()), expected, **CLOSE)

    facts = json.loads(command(capsys, "inspect", str(folder), "--json"))
    assert frozen(facts) == frozen(record["inspect"])
    for key in ("method", "scaling", "parameters", "pruned_ranks"):
        assert facts[key] == record["inspect"][key], key
    assert ADAPTERS[name].method in command(capsys, "inspect", str(folder))
    command(capsys, "merge", "base", str(folder), "merged")
    torch.testing.assert_close(logits(base("merged")), expected, **CLOSE)


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_goes_on_training_with_what_was_frozen_or_pruned(name: str, old_spellings: None) -> None:
    folder = FILES / "adapters" / name
    model = PeftModel.from_pretrained(base(FILES / "base"), str(folder), is_trainable=True)
    config = load_json(folder / "adapter_config.json")
    trains = {key.replace(".default", "") for key, parameter in model.named_parameters() if parameter.requires_grad}
    prefix = f"tapertune_{ADAPTERS[name].method}_"
    assert trains
    for module, factors in config["frozen"].items():
        for factor in factors:
            assert not any(f"{module}.{prefix}{factor}." in f"{key}." for key in trains), (module, factor)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    further = {"policy": {"target": 1}} if "target_r" in ADAPTERS[name].settings else None  # the saved one is reached
    controller = tapertune.attach(model, optimizer, total_steps=STEPS, plan=further)
    before = logits(model)
    model(input_ids=torch.ones(2, 4, dtype=torch.long), labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    assert controller.step == 1
    assert not torch.equal(logits(model), before)


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_is_exported(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = FILES / "adapters" / name
    expected = torch.tensor(load_json(folder / "expected.json")["logits"])
    lossy = ADAPTERS[name].method == "loran"
    if lossy:
        assert main(["export", str(folder), "--out", "lora"]) == 2
    command(capsys, "export", str(folder), "--out", "lora", *(("--max-error", "1e-4") if lossy else ()))
    model = PeftModel.from_pretrained(base("base"), "lora")
    assert str(model.peft_config["default"].peft_type.value) == "LORA"
    torch.testing.assert_close(logits(model), expected, **({"atol": 1e-3, "rtol": 1e-3} if lossy else CLOSE))


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("kernel", ["fused", "folded", "reference"])
def test_kernels_have_the_names_that_they_had(
    kernel: str, name: str, monkeypatch: pytest.MonkeyPatch, old_spellings: None
) -> None:
    folder = FILES / "adapters" / name
    monkeypatch.setenv("TAPERTUNE_KERNEL", kernel)
    model = PeftModel.from_pretrained(base(FILES / "base"), str(folder))
    torch.testing.assert_close(logits(model), torch.tensor(load_json(folder / "expected.json")["logits"]), **CLOSE)


# ---- Trainer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(TRAINED))
def test_a_trainer_goes_on_from_a_checkpoint(name: str, tmp_path: Path, old_spellings: None) -> None:
    source = FILES / "trained" / name
    folder = tmp_path / "out"
    shutil.copytree(source / CHECKPOINT, folder / CHECKPOINT)
    shutil.copy(source / "events.jsonl", folder)
    run = trainer(TRAINED[name], FILES / "base", folder)
    run.train(resume_from_checkpoint=True)
    run.model.save_pretrained(folder / "end")
    check_weights(folder / "end", source / "end")
    check_events(folder / "events.jsonl", source / "events.jsonl")


# ---- the command -----------------------------------------------------------------------------------------------------


def resume(place: Path, capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> None:
    """Goes on with a run that was stopped and compares its end with the end of the one that was not."""
    source, folder = FILES / "runs" / name, place / "out" / name
    shutil.copytree(source / "stopped", folder)
    assert load_json(folder / "run.json")["status"] == "interrupted"
    command(capsys, "train", *arguments, "--resume")
    check_weights(folder, source / "whole")
    check_events(folder / "events.jsonl", source / "whole/events.jsonl")
    new, old = (load_json(each / "run.json") for each in (folder, source / "whole"))
    assert new["status"] == old["status"] == "done"
    assert new["score"]["value"] == old["score"]["value"]
    for key in ("parameters", "metrics"):
        assert new[key] == pytest.approx(old[key], rel=1e-4), key
    for key in ("method", "model", "task", "seed", "steps", "rows"):
        assert new[key] == old[key], key
    assert (folder / "report.html").is_file()


@pytest.mark.parametrize("name", list(RUNS))
def test_a_run_goes_on_from_its_folder_alone(
    name: str, place: Path, old_spellings: None, capsys: pytest.CaptureFixture[str]
) -> None:
    resume(place, capsys, name, "--output-dir", f"out/{name}")


@pytest.mark.parametrize("name", ["aflora_folded", "bottom_up", "adalora", "full"])
def test_a_run_goes_on_from_its_run_file(
    name: str, place: Path, old_spellings: None, capsys: pytest.CaptureFixture[str]
) -> None:
    resume(place, capsys, name, str(FILES / "runs" / name / "run.yaml"))


def test_a_run_goes_on_from_dotted_options(
    place: Path, old_spellings: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options lay the file of another run's settings over; kernel and policy have the names of that time."""
    monkeypatch.setenv("TAPERTUNE_KERNEL", "folded")
    resume(
        place, capsys, "aflora_folded", str(FILES / "runs/lora/run.yaml"), "--output-dir", "out/aflora_folded",
        "--method.name", "aflora", "--plan.schedule.kind", "cubic", "--plan.schedule.warmup=1",
        "--plan.schedule.cooldown", "3", "--plan.schedule.every", "1", "--plan.policy.freeze-vectors", "true",
        "--plan.policy.fold", "true", "--name", "aflora_folded",
    )  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_run_file_is_valid(name: str, place: Path, old_spellings: None, capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, "validate", str(FILES / "runs" / name / "run.yaml"))


@pytest.mark.parametrize("name", ["aflora_folded", "bottom_up"])
def test_a_run_file_with_old_spellings_starts_a_run(
    name: str, place: Path, old_spellings: None, capsys: pytest.CaptureFixture[str]
) -> None:
    command(capsys, "train", str(FILES / "runs" / name / "run.yaml"), "--plan.policy.fold=true", "--seed", "8")
    new, old = (read_events(each / "events.jsonl") for each in (place / "out" / name, FILES / "runs" / name / "whole"))
    assert sum(len(e["names"]) for e in new if e["type"] == "freeze") > 0
    assert new[-1]["type"] == old[-1]["type"] == "end"
    assert new[-1]["trainable"] == old[-1]["trainable"]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_folder_is_reported_and_evaluated(
    name: str, place: Path, old_spellings: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = FILES / "runs" / name / "whole"
    record = load_json(folder / "run.json")
    for options in (["report.html"], ["report.md"], ["report.svg", "--kind", "curves"]):
        command(capsys, "report", str(folder), "--out", *options)
    text = Path("report.md").read_text(encoding="utf-8")
    assert f"| accuracy | {record['score']['value']:.3f} |" in text
    figures = {"freeze": ("heatmap", "freezing"), "prune": ("heatmap", "ranks")}
    for decision in {event["type"] for event in read_events(folder / "events.jsonl")} & {*figures}:
        for kind in figures[decision]:
            command(capsys, "report", str(folder), "--out", f"{kind}.png", "--kind", kind)
    command(capsys, "report", str(FILES / "runs" / name / "stopped"), "--out", "stopped.html")
    command(capsys, "evaluate", str(folder), "--task.validation", "data/validation.jsonl", "--out", "metrics.json")
    assert load_json(Path("metrics.json"))["splits"]["validation"]["metrics"] == pytest.approx(
        record["metrics"], rel=1e-4
    )
    if name not in ("full", "head"):
        assert record["versions"]["torch"] in command(capsys, "inspect", str(folder))
        command(capsys, "inspect", str(FILES / "runs" / name / "stopped" / CHECKPOINT))


def test_runs_are_compared(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, "report", *(str(FILES / "runs" / name / "whole") for name in RUNS), "--out", "all.md")
    text = Path("all.md").read_text(encoding="utf-8")
    assert all(f"{case.method}-text_classification" in text or name in text for name, case in RUNS.items())
