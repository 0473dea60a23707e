"""Several training rows in one, up to a length, so that little is padding.

Positions begin anew with each row, and no attention mask is given: from that, transformers' decoders build one that
keeps rows apart. Whether a model does is found out by its numbers (``train.packing``), as not all do.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .kinds.base import Collator, Encoded, Feature
from .prompts import IGNORED


def packed(encoded: Encoded, max_length: int) -> Encoded:
    """The rows in as few as best fit by falling length finds, none above ``max_length`` tokens. A row's first token is
    no label: it would be predicted from the row before it."""
    owners: list[int] = []
    rows: list[Feature] = []
    for numbers in bins([len(row["input_ids"]) for row in encoded.rows], max_length):
        rows.append(joined([encoded.rows[number] for number in numbers]))
        owners.append(encoded.owners[numbers[0]])
    return replace(encoded, rows=rows, owners=owners)


def joined(rows: Sequence[Feature]) -> Feature:
    """Rows one after another, with positions that begin anew.

    >>> joined([{"input_ids": [5, 6], "labels": [5, 6]}, {"input_ids": [7], "labels": [7]}])["position_ids"]
    [0, 1, 0]
    """
    return {
        "input_ids": [token for row in rows for token in row["input_ids"]],
        "labels": [label for row in rows for label in (IGNORED, *row["labels"][1:])],
        "position_ids": [position for row in rows for position in range(len(row["input_ids"]))],
    }


def bins(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Numbers of rows that go together: each, the longest first, where it leaves the least room.

    >>> bins([3, 9, 6, 1], 10)
    [[1, 3], [2, 0]]
    """
    made: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (what is left, number of the bin), ascending
    for number in sorted(range(len(lengths)), key=lambda each: (-lengths[each], each)):
        place = bisect.bisect_left(room, (lengths[number], -1))
        if place == len(room):
            made.append([])
            left, chosen = most, len(made) - 1
        else:
            left, chosen = room.pop(place)
        made[chosen].append(number)
        bisect.insort(room, (left - lengths[number], chosen))
    return made


def collator(pad: int) -> Collator:
    """Packed rows, padded to the longest with a row of padding of its own, and without an attention mask."""

    def collate(features: list[Feature]) -> dict[str, Any]:
        import torch

        longest = max(len(feature["input_ids"]) for feature in features)
        batch: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "position_ids": []}
        for feature in features:
            rest = longest - len(feature["input_ids"])
            for name, filler in (
                ("input_ids", [pad] * rest),
                ("labels", [IGNORED] * rest),
                ("position_ids", range(rest)),
            ):
                batch[name].append([*feature[name], *filler])
        return {name: torch.tensor(rows, dtype=torch.long) for name, rows in batch.items()}

    return collate
