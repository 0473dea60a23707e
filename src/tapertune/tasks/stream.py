"""Training rows that are read, checked and encoded as they are needed: memory does not grow with the file."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import astuple, fields
from itertools import chain, islice
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..errors import TapertuneError
from .base import Task
from .counts import Counts, check_trains, counts_of, notes
from .data import TOLERATED, checked_rows
from .encode import encode
from .fields import BadField
from .files import Table
from .kinds import Encoded, Example, get_kind
from .kinds.base import Feature

_CHUNK = 64  # rows that are tokenised together
_BUFFER = 1024  # features among which the next is drawn
_JUDGED = 1000  # rows after which the share of bad ones is judged
_COUNTED = tuple(field.name for field in fields(Counts))


class _Tally:
    """Counts of one pass, which are added to those of all passes as they grow."""

    def __init__(self, shared: torch.Tensor | None = None) -> None:
        self._shared = shared
        self._own = torch.zeros(len(_COUNTED), dtype=torch.long)

    @property
    def own(self) -> Counts:
        return Counts(**dict(zip(_COUNTED, self._own.tolist(), strict=True)))

    def add(self, found: Counts) -> None:
        numbers = torch.tensor(astuple(found))
        self._own += numbers
        if self._shared is not None:
            self._shared += numbers


class Stream(IterableDataset[Feature]):
    """Features in the file's order, shuffled within a window, anew in each pass.

    Workers read the whole file, and each keeps the batches that are its own, so that their number changes nothing in
    the order.

    Args:
        task: with its labels and length.
        table: the rows.
        tokenizer: of the model.
        batch: rows of a batch.
        seed: of the shuffling.
        skip_bad_rows: leave out rows that cannot be used, however many.
    """

    def __init__(
        self,
        task: Task,
        table: Table,
        tokenizer: Any,
        *,
        batch: int,
        seed: int,
        skip_bad_rows: bool = False,
    ) -> None:
        self._task, self._table, self._tokenizer = task, table, tokenizer
        self._batch, self._seed, self._skip = batch, seed, skip_bad_rows
        self._epoch = 0
        # shared, because workers are processes
        self._counts = torch.zeros(len(_COUNTED), dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    @property
    def source(self) -> str:
        """The file that it reads, or the name of the split on the hub."""
        return self._table.name

    @property
    def counts(self) -> Counts:
        """Of the rows read so far, all passes together."""
        return Counts(**dict(zip(_COUNTED, self._counts.tolist(), strict=True)))

    def notes(self) -> list[str]:
        """What to tell of rows left out and cut."""
        name, counts = self._table.name, self.counts
        bad = [f"{name}: {counts.bad} of {counts.rows} rows read cannot be used and were left out"]
        return [*(bad if counts.bad else []), *notes(self._task, name, counts, train=True)]

    def check(self) -> None:
        """Reads as far as the first row that can be trained on and has text.

        Raises:
            TapertuneError: there is none.
        """
        for encoded in self._chunks(_Tally()):
            if encoded.rows and encoded.empty < len(encoded.examples):
                return

    def __iter__(self) -> Iterator[Feature]:
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        tally = _Tally(self._counts if number == 0 else None)
        for index, feature in enumerate(self._shuffled(tally)):
            if index // self._batch % count == number:
                yield feature

    def _shuffled(self, tally: _Tally) -> Iterator[Feature]:
        draw = random.Random(self._seed * 1_000_003 + self._epoch)
        features = self._features(tally)
        buffer = list(islice(features, _BUFFER))
        for feature in features:
            place = draw.randrange(len(buffer))
            yield buffer[place]
            buffer[place] = feature
        draw.shuffle(buffer)
        yield from buffer

    def _features(self, tally: _Tally) -> Iterator[Feature]:
        return chain.from_iterable(encoded.rows for encoded in self._chunks(tally))

    def _chunks(self, tally: _Tally) -> Iterator[Encoded]:
        examples = self._examples(tally)
        while chunk := list(islice(examples, _CHUNK)):
            encoded = encode(self._task, chunk, self._tokenizer, self._task.max_length, train=True)
            tally.add(counts_of(encoded, bad=0))
            yield encoded
        check_trains(self._task, self._table.name, tally.own)

    def _examples(self, tally: _Tally) -> Iterator[Example]:
        read = bad = 0
        first = ""
        for number, found in checked_rows(get_kind(self._task.kind), self._task, self._table):
            read += 1
            if isinstance(found, BadField):
                bad += 1
                tally.add(Counts(rows=1, bad=1))
                first = first or f"{self._table.where(number)}: {found}"
                if read >= _JUDGED:
                    self._judge(read, bad, first)
            else:
                yield found
        self._judge(read, bad, first)
        if read == bad:
            raise TapertuneError(f"{self._table.name}: no row can be used; {first}")

    def _judge(self, read: int, bad: int, first: str) -> None:
        if bad > TOLERATED * read and not self._skip:
            raise TapertuneError(
                f"{first}. {bad} of {read} rows read so far cannot be used: --skip-bad-rows leaves them out"
            )
