"""The order of training rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class GroupedByLength(Sampler[int]):
    """Rows of like length in the same batch, the batches in an order drawn anew each epoch.

    transformers' own sampler goes from the longest to the shortest rows again and again, so that what goes with length
    drifts as training goes on. Here the batch with the longest row comes first, which finds out early whether memory is
    enough, a batch that is not full comes last, and chance orders the others.

    The draws depend on seed and epoch alone (transformers' own sampler draws from torch's global generator), so that a
    resumed epoch has the order in which it began.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self._lengths, self._batch, self._seed = list(lengths), batch, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        rows = get_length_grouped_indices(self._lengths, self._batch, generator=generator)
        first, *others = [rows[i : i + self._batch] for i in range(0, len(rows), self._batch)]
        last = [others.pop()] if others and len(others[-1]) < self._batch else []
        order = torch.randperm(len(others), generator=generator).tolist()
        return itertools.chain.from_iterable([first, *(others[i] for i in order), *last])
