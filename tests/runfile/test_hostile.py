"""Values that no setting can have, in every block: one line that names the setting, and none taken."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tapertune.errors import TapertuneError
from tapertune.methods import METHODS
from tapertune.methods.settings import LARGEST_RANK
from tapertune.runfile.settings import check_settings

FLOATS = (
    "weight_decay", "warmup_steps", "num_train_epochs", "max_grad_norm", "adam_epsilon", "learning_rate", "eval_delay",
)  # fmt: skip
WRONG = (float("nan"), float("inf"), 10**400, [1], {"a": 1}, 2**70)


def raw(method: str = "lora", **blocks: Any) -> dict[str, Any]:
    return {"model": "minilm", "task": {"name": "sst2", "data": "sample"}, "method": {"name": method}, **blocks}


@pytest.mark.parametrize("method", METHODS)
def test_methods_settings(method: str) -> None:
    for field in dataclasses.fields(METHODS[method].settings):
        for value in WRONG:
            if isinstance(value, list) and field.name == "p_sizes":
                continue
            with pytest.raises(TapertuneError) as caught:
                check_settings(raw(method) | {"method": {"name": method, field.name: value}})
            assert len(str(caught.value)) < 600
        if isinstance(field.default, bool):
            with pytest.raises(TapertuneError, match=rf"{field.name} is 1; it must be true or false"):
                check_settings(raw(method) | {"method": {"name": method, field.name: 1}})
    rank = METHODS[method].rank
    with pytest.raises(TapertuneError, match=f"{rank} is .*at most"):
        check_settings(raw(method) | {"method": {"name": method, rank: LARGEST_RANK + 1}})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in FLOATS for value in WRONG[:3] if (name, value) != ("max_grad_norm", WRONG[1])),
        ("adam_beta1", 1.0), ("adam_beta1", -0.1), ("adam_beta2", 1.5), ("label_smoothing_factor", 1.0),
        ("logging_steps", -1), ("save_steps", -1), ("eval_steps", float("nan")), ("dataloader_num_workers", -1),
        ("save_total_limit", 0), ("max_steps", 2**63),
        ("per_device_train_batch_size", 2**64), ("learning_rate", 10**19),
    ],
)  # fmt: skip
def test_training_settings(name: str, value: Any) -> None:
    with pytest.raises(TapertuneError, match=rf"training\.{name} is ") as caught:
        check_settings(raw(training={name: value}))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("blocks", "field"),
    [
        ({"head": {"learning_rate": float("inf")}}, "head.learning_rate"),
        ({"head": {"weight_decay": float("nan")}}, "head.weight_decay"),
        ({"early_stopping": {"patience": 1, "threshold": float("inf")}}, "early_stopping.threshold"),
        ({"seed": 2**63}, "seed"),
        ({"name": "a\n# b"}, "name"),
        ({"name": "\x1b[31m"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"output_dir": "a\0b"}, "output_dir"),
        ({"plan": {"schedule": {"kind": ["cubic"]}}}, "schedule.kind"),
        ({"plan": [["x"]]}, "plan"),
        ({"method": {"name": "lora", "target_modules": [{"a": 1}]}}, "target_modules"),
        ({"method": {"name": "lora", "modules_to_save": "classifier"}}, "modules_to_save"),
        ({"method": {"name": "lora", "layers_to_transform": ["0"]}}, "layers_to_transform"),
        ({"method": {"name": "lora", "init_weights": "no"}}, "init_weights"),
    ],
)
def test_other_blocks(blocks: dict[str, Any], field: str) -> None:
    with pytest.raises(TapertuneError, match=field):
        check_settings({**raw("adalora" if "plan" in blocks else "lora"), **blocks})
