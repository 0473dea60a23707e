"""What older versions of torch do not have."""

from __future__ import annotations

import pytest
import torch

from tapertune.kernels.recompute import TELLS_OF_HOOKS

rebuilds = pytest.mark.skipif(not TELLS_OF_HOOKS, reason="inputs are kept before torch 2.10")

shards = pytest.mark.skipif(
    tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 9),
    reason="AdaLoRA's E comes out 5e-5 off under FSDP2 before torch 2.9",
)
