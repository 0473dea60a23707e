from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from tapertune.benchmark.setting import Setting
from tapertune.errors import TapertuneError


def test_one_thread_is_measured_by_cpu_time_and_more_by_the_wall() -> None:
    assert Setting.model_validate({}).clock == "CPU time"
    assert Setting.model_validate({"threads": 2}).clock == "wall time"
    assert Setting.model_validate({"device": "cuda"}).clock == "CUDA events"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_a_missing_device_is_one_clear_line() -> None:
    with pytest.raises(TapertuneError, match="no CUDA device here; measure with --device cpu"):
        Setting.model_validate({"device": "cuda"}).prepare()


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"device": "tpu"}, {"rows": 3}])
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Setting.model_validate(wrong)
