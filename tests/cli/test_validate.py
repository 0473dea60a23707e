from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

GOOD = "model: minilm\ntask: rte\nmethod: {name: aflora, r: 4}\n"


def test_good_file(cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(GOOD)
    counts = "trains 113,040 in 36 modules, head 770, 468 steps"
    assert cli("validate", file) == (0, f"{file}: ok, {counts}\n", "")


def test_a_model_of_unknown_sizes(cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(GOOD.replace("minilm", "some/model"))
    done = cli("validate", file)
    assert done.code == 0
    assert done.out == f"{file}: ok (the sizes of some/model are not known, so only keys and values were checked)\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "modle: x\n", "unknown setting 'modle': did you mean 'model'?"),
        (GOOD.replace("aflora", "aflroa"), "did you mean 'aflora'?"),
        (GOOD.replace("r: 4", "r: 0"), "r is 0"),
        (GOOD + "training: {learning_rat: 1}\n", "did you mean 'training.learning_rate'?"),
        (GOOD + "plan: {schedule: {kind: cubik}}\n", "did you mean 'cubic'?"),
        (GOOD.replace("r: 4", "r: 4, target_modules: [querry]"), "no module is called 'querry'; did you mean 'query'?"),
        (
            GOOD + "plan: {schedule: {warmup: 400, cooldown: 400}}\n",
            "plan: schedule.warmup 400 and schedule.cooldown 400",
        ),
        ("model: [\n", "not YAML"),
        ("", "it must hold settings"),
    ],
)
def test_bad_file(cli: Any, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    done = cli("validate", file)
    assert done.code == 2
    assert message in done.out
    assert done.out.startswith(f"{file}")
    assert done.err == "error: 1 of 1 run files cannot be used\n"


def test_every_file_is_looked_at(cli: Any, tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text(GOOD)
    done = cli("validate", tmp_path / "missing.yaml", good)
    assert done.code == 2
    assert "missing.yaml" in done.out.splitlines()[0] and "No such file" in done.out.splitlines()[0]
    assert done.out.splitlines()[1].startswith(f"{good}: ok")


def test_recipes_by_name(cli: Any) -> None:
    done = cli("validate", "aflora/glue-rte", "lora/glue-ret")
    assert done.code == 2
    first, second = done.out.splitlines()
    assert first == "aflora/glue-rte: ok, trains 451,872 in 72 modules, head 592,130, 780 steps"
    assert second.startswith("lora/glue-ret: unknown recipe 'lora/glue-ret': did you mean 'lora/glue-rte'?")
