from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from train.tiny_run import raw_settings

from tapertune.cli.main import main
from tapertune.errors import TapertuneError
from tapertune.train.distributed import check_own_parameters, check_unsharded


def zero(stage: int) -> dict[str, Any]:
    return {"zero_optimization": {"stage": stage}}


DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true"}


@pytest.mark.parametrize(
    ("training", "environment", "named"),
    [
        ({"fsdp": "full_shard"}, {}, "training.fsdp is 'full_shard'"),
        ({}, {"ACCELERATE_USE_FSDP": "true"}, "ACCELERATE_USE_FSDP is 'true'"),
        ({"deepspeed": zero(3)}, {}, "training.deepspeed: zero_optimization.stage is 3"),
        ({}, {**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "ACCELERATE_DEEPSPEED_ZERO_STAGE is 3"),
    ],
)
def test_split_weights_are_refused(training: dict[str, Any], environment: dict[str, str], named: str) -> None:
    with pytest.raises(TapertuneError) as caught:
        check_unsharded(training, environment)
    assert str(caught.value).startswith(f"{named}; weights that are split over processes are not saved: use ")


@pytest.mark.parametrize(
    ("training", "environment"),
    [
        ({}, {}),
        ({"fsdp": None, "deepspeed": None}, {"ACCELERATE_USE_FSDP": "false"}),
        ({"deepspeed": zero(2)}, {}),
        ({}, {**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2", "ACCELERATE_DEEPSPEED_CONFIG_FILE": "none"}),
        ({}, {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}),  # told, but not used
    ],
)
def test_whole_weights_are_not(training: dict[str, Any], environment: dict[str, str]) -> None:
    check_unsharded(training, environment)


def test_the_stage_is_read_from_a_file(tmp_path: Path) -> None:
    for stage in (2, 3):
        (tmp_path / f"{stage}.json").write_text(json.dumps(zero(stage)))
    check_unsharded({"deepspeed": str(tmp_path / "2.json")}, {})
    with pytest.raises(TapertuneError, match=r"zero_optimization.stage is 3; "):
        check_unsharded({"deepspeed": str(tmp_path / "3.json")}, {})
    with pytest.raises(TapertuneError, match=r"CONFIG_FILE is 3; "):
        check_unsharded({}, {**DEEPSPEED, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(tmp_path / "3.json")})
    with pytest.raises(TapertuneError, match=r"cannot read DeepSpeed's settings .*nowhere"):
        check_unsharded({"deepspeed": str(tmp_path / "nowhere.json")}, {})


def test_a_plan_needs_the_parameters_themselves(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for training, environment in (({}, {}), ({"deepspeed": zero(0)}, {}), ({"deepspeed": zero(0)}, DEEPSPEED)):
        check_own_parameters("aflora", training, environment)
    environment = {**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}
    with pytest.raises(TapertuneError, match=r"^ACCELERATE_DEEPSPEED_ZERO_STAGE is 1; .* the plan of 'sora' can"):
        check_own_parameters("sora", {}, environment)
    path = root / "run.yaml"
    path.write_text(yaml.safe_dump(raw_settings(root, "aflora", training__deepspeed=zero(2))))
    assert main(["train", str(path)]) == 2
    error = capsys.readouterr().err
    assert "error: training.deepspeed: zero_optimization.stage is 2; its optimizer steps on copies, of which" in error
    assert not (root / "run").exists()


def test_a_run_stops_before_anything_is_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / "run.yaml"
    path.write_text(yaml.safe_dump(raw_settings(root, "lora", training__fsdp="full_shard")))
    assert main(["train", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: training.fsdp is 'full_shard'; ") and error.count("\n") == 1
    assert not (root / "run").exists()
