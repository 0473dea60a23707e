"""How a measurement is made: device, precision, threads, batch. Two are comparable where these are equal."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from ..errors import TapertuneError

Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16"]


class Setting(BaseModel):
    """What all variants of a measurement share.

    Attributes:
        threads: of torch's operators; with one on a CPU, time is the process's CPU time, else it is wall time.
        batch, length: rows, and tokens in each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: Device = "cpu"
    dtype: Dtype = "float32"
    threads: int = Field(1, ge=1)
    batch: int = Field(8, ge=1)
    length: int = Field(128, ge=1)

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    @property
    def tokens(self) -> int:
        return self.batch * self.length

    @property
    def clock(self) -> str:
        """What time is measured by."""
        if self.device == "cuda":
            return "CUDA events"
        return "CPU time" if self.threads == 1 else "wall time"

    def describe(self) -> str:
        """
        >>> Setting().describe()
        'cpu, float32, 1 thread, 8 x 128 tokens, CPU time'
        """
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        where = self.device if self.device == "cuda" else f"cpu, {self.dtype}, {threads}"
        where = f"{where}, {self.dtype}" if self.device == "cuda" else where
        return f"{where}, {self.batch} x {self.length} tokens, {self.clock}"

    def prepare(self) -> None:
        """Sets the threads.

        Raises:
            TapertuneError: there is no such device here.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise TapertuneError("device is 'cuda', and torch sees no CUDA device here; measure with --device cpu")
        torch.set_num_threads(self.threads)
