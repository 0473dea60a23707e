from __future__ import annotations

import torch
from new_methods.soft_lora import SOFT_LORA


def test_the_update_by_hand() -> None:
    tensors = {"A": torch.randn(3, 6), "B": torch.randn(5, 3)}
    m = tensors["B"] @ tensors["A"]
    torch.testing.assert_close(SOFT_LORA.chain(SOFT_LORA.settings()).delta_weight(tensors), m / (1 + m.abs()))
