"""A batch as rows: which tokens of each are real, and a key that says what each is made of.

Legend of shapes: B rows, T positions of the padded batch, n real tokens of a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .stack import INPUTS

_PLAIN = (bool, int, float, str)
_WHOLE_PASS = (
    "past_key_values",
    "encoder_hidden_states",
    "encoder_outputs",
    "output_hidden_states",
    "output_attentions",
)
Span = tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """What the backbone is given for one pass.

    Attributes:
        arguments: by name; tensors of B rows among them.
        size: B.
        length: T; None where rows have no tokens, as pictures.
        spans: of each row, where its real tokens begin and end; those of a picture are all it has.
        keys: of each row.
        device: of the states.
    """

    arguments: Mapping[str, Any]
    size: int
    length: int | None
    spans: list[Span]
    keys: list[bytes]
    device: torch.device

    def part(self, rows: list[int]) -> dict[str, Any]:
        """The arguments of some rows; all of them as they are."""
        if rows == list(range(self.size)):
            return dict(self.arguments)
        index = torch.tensor(rows, device=self.device)
        return {
            name: value[index] if _by_row(name, value, self.size) else value for name, value in self.arguments.items()
        }


def is_plain(arguments: Mapping[str, Any]) -> bool:
    """Whether a pass can begin later than at the first layer: no step of generation, none that asks for all layers'
    states, none whose inputs ask for gradients or are no plain tensors."""
    given = {name: value for name, value in arguments.items() if value is not None}
    if any(given.get(name) is not None and given[name] is not False for name in _WHOLE_PASS):
        return False
    tensors = [value for value in given.values() if isinstance(value, Tensor)]
    if any(not isinstance(value, (Tensor, *_PLAIN)) for value in given.values()):
        return False
    main = _main(given)
    return main is not None and given[main].numel() > 0 and not any(value.requires_grad for value in tensors)


def as_batch(arguments: Mapping[str, Any], variant: bytes) -> Batch:
    """The rows of a plain pass.

    Args:
        arguments: of the backbone, by name.
        variant: what else decides what becomes of a row, for its key.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    main = _main(given)
    assert main is not None, "a plain pass has it"
    size, length = tensors[main].shape[0], None if main == "pixel_values" else tensors[main].shape[1]
    here = {name: value.detach().cpu() for name, value in tensors.items()}
    spans = _spans(here.get("attention_mask"), size, length)
    others = sorted(
        (n, repr(v)) for n, v in given.items() if n not in tensors and n not in ("return_dict", "use_cache")
    )
    start = variant + repr(others).encode()
    keys = [_key(start, here, row, span, size, length) for row, span in enumerate(spans)]
    return Batch(arguments, size, length, spans, keys, tensors[main].device)


def _main(given: Mapping[str, Any]) -> str | None:
    """The argument that a row is made of."""
    dims = {"input_ids": 2, "pixel_values": 3, "inputs_embeds": 3}
    names = (n for n in (*INPUTS, "inputs_embeds") if isinstance(given.get(n), Tensor) and given[n].dim() >= dims[n])
    return next(names, None)


def _spans(mask: Tensor | None, size: int, length: int | None) -> list[Span]:
    """From the first position to behind the last real token. What is padded on the left counts: the position before a
    row's first token is asked to predict it. A row without a real token, or a mask of another form, is taken whole."""
    whole = (0, length or 0)
    if mask is None or length is None or mask.dim() != 2 or tuple(mask.shape) != (size, length):
        return [whole] * size
    real = mask.numpy() != 0
    ends = length - real[:, ::-1].argmax(1)
    return [(0, int(end)) if any_real else whole for end, any_real in zip(ends, real.any(1), strict=True)]


def _key(start: bytes, tensors: Mapping[str, Tensor], row: int, span: Span, size: int, length: int | None) -> bytes:
    digest = hashlib.blake2b(start, digest_size=16)
    digest.update(f"{span[0]}:{span[1]}".encode())
    for name in sorted(tensors):
        value = _of_row(name, tensors[name], row, span, size, length)
        digest.update(f"|{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    return digest.digest()


def _of_row(name: str, value: Tensor, row: int, span: Span, size: int, length: int | None) -> Tensor:
    """A row's part of a tensor, without padding."""
    axis = 0
    if _by_row(name, value, size):
        value = value[row]
    elif value.dim() > 1 and value.shape[0] == 1:  # the same for all rows
        value = value[0]
    if length is not None and value.dim() > axis and value.shape[axis] == length:
        value = value[span[0] : span[1]]
    return value


def _by_row(name: str, value: Any, size: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == size and name != "cache_position"


def _bytes(value: Tensor) -> bytes:
    flat = value.contiguous().reshape(-1)
    if flat.dtype == torch.int64 and flat.numel() and int(flat.min()) >= 0 and int(flat.max()) < 1 << 31:
        return flat.numpy().astype(np.int32).tobytes()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
