from __future__ import annotations

from typing import Any

import pytest

from tapertune.errors import TapertuneError
from tapertune.runfile.arguments import check_training, training_defaults


def test_what_is_used_unsaid_is_itself_right() -> None:
    assert check_training(training_defaults()) == training_defaults()


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"max_steps": 0}, "training.max_steps is 0; it must be 1 or more, or -1 for whole epochs"),
        ({"max_steps": -2}, "training.max_steps is -2; it must be -1 or more"),
        ({"num_train_epochs": 0}, "training.num_train_epochs is 0; it must be more than 0"),
        ({"learning_rate": -1e-3}, "training.learning_rate is -0.001; it must be a number above 0, or auto"),
        ({"per_device_train_batch_size": 0}, "training.per_device_train_batch_size is 0; it must be 1 or more"),
        ({"gradient_accumulation_steps": 0}, "training.gradient_accumulation_steps is 0; it must be 1 or more"),
        ({"warmup_steps": -1}, "training.warmup_steps is -1; it must be 0 or more"),
    ],
)
def test_values_that_cannot_be(training: dict[str, Any], message: str) -> None:
    with pytest.raises(TapertuneError) as caught:
        check_training(training)
    assert str(caught.value) == message
