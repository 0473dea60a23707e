from __future__ import annotations

import torch
from new_methods.lora_xs import LORA_XS


def test_only_the_inner_matrix_trains() -> None:
    settings = LORA_XS.settings()
    assert [n for n in LORA_XS.chain(settings).names if LORA_XS.trains(settings, n, "ffn")] == ["R"]


def test_the_update_by_hand() -> None:
    tensors = {"A": torch.randn(3, 6), "R": torch.randn(3, 3), "B": torch.randn(5, 3)}
    delta = LORA_XS.chain(LORA_XS.settings()).delta_weight(tensors)
    torch.testing.assert_close(delta, tensors["B"] @ tensors["R"] @ tensors["A"])
