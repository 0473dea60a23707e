"""Digests of what a run is trained on: rows, the base model's weights, its config. Equal contents have equal digests,
in another process too; computing them draws no random numbers."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..adapt.sharding import is_sharded

MOST_ROWS = 10_000
"""Of rows in memory, so many are looked at, evenly spaced; of a data set on disk, a hundred times as many."""
FEW_ROWS = 16
"""Of a data set that makes its rows when it is asked for them, so many."""

_SLICE = 1_000
_SAMPLE = 32
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_NOT_CONFIG = ("transformers_version", "architectures", "problem_type", "use_cache")


def data_digest(dataset: Any) -> str | None:
    """A digest of a data set's rows, as far as they can be looked at; None of one without a length or with rows that
    change from look to look.

    Args:
        dataset: lists, tensors, tables of ``datasets``, or anything that is asked for a row by its number.
    """
    try:
        if type(dataset).__module__.partition(".")[0] == "datasets" and hasattr(dataset, "with_format"):
            return _of_table(dataset)
        if isinstance(dataset, torch.utils.data.TensorDataset):
            return digest_of(dataset.tensors)
        with same_draws():
            if isinstance(dataset, list | tuple):
                return digest_of(dataset[number] for number in _spaced(len(dataset), MOST_ROWS))
            numbers = _spaced(len(dataset), FEW_ROWS)
            first, second = (digest_of(dataset[number] for number in numbers) for _ in range(2))
        return first if first == second else None
    except Exception:  # a data set of one's own may refuse in any way; what is wrong with it, training will say
        return None


def digest_of(values: Iterable[Any]) -> str:
    """A digest of tensors, arrays, numbers, texts, and lists and dictionaries of these."""
    digest = hashlib.sha256()
    for value in values:
        _feed(digest, value)
    return digest.hexdigest()


def weights_digest(model: nn.Module, adapter: Collection[int]) -> str | None:
    """A digest of the weights that do not train; None where they are split over processes or not there yet.

    Args:
        model: with or without an adapter.
        adapter: identities of the adapter's parameters.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or id(parameter) in adapter or "original_module" in name:
            continue
        if is_sharded(parameter) or parameter.device.type == "meta":
            return None
        digest.update(f"{tuple(parameter.shape)} {parameter.dtype} ".encode() + _sums(parameter.detach()))
    return digest.hexdigest()


def config_facts(model: Any) -> dict[str, Any]:
    """A model's config as plain values by dotted name, without what says nothing of what the model computes."""
    to_dict = getattr(getattr(model, "config", None), "to_dict", None)
    return {} if to_dict is None else dict(_plain(to_dict(), "config"))


def _of_table(dataset: Any) -> str:
    """Of a table of ``datasets``, without a transform that it may have."""
    import pyarrow

    rows, digest = dataset.with_format("arrow"), hashlib.sha256()
    slices = range(0, len(rows), _SLICE)
    for place in _spaced(len(slices), MOST_ROWS * 100 // _SLICE):
        table = rows[slices[place] : slices[place] + _SLICE].replace_schema_metadata(None).combine_chunks()
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        digest.update(sink.getvalue())
    return digest.hexdigest()


def _spaced(count: int, most: int) -> Sequence[int]:
    """At most so many of the numbers below ``count``, the first and the last among them."""
    return range(count) if count <= most else [i * (count - 1) // (most - 1) for i in range(most)]


@contextmanager
def same_draws() -> Iterator[None]:
    """Leaves random numbers on the processor, Python's and NumPy's too, as they were."""
    kept, numpy_kept = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(kept)
            np.random.set_state(numpy_kept)


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        header = f"t{value.dtype}{tuple(value.shape)}"
        digest.update(header.encode() + value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        items = [(str(key), each) for key, each in value.items() if each is not None]
        digest.update(f"d{len(items)}".encode())
        for key, each in sorted(items, key=lambda item: item[0]):
            digest.update(f"{len(key)}:{key}".encode("utf-8", "replace"))
            _feed(digest, each)
    elif isinstance(value, list | tuple):
        digest.update(f"l{len(value)}".encode())
        try:
            digest.update(array("q", value).tobytes())
        except (TypeError, OverflowError):
            for each in value:
                _feed(digest, each)
    elif value is None or isinstance(value, int | float | str | bytes):
        text = repr(value)
        digest.update(f"v{len(text)}:{text}".encode("utf-8", "replace"))
    elif hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        values = np.asarray(value)
        digest.update(f"a{values.dtype}{values.shape}".encode())
        _feed(digest, values.tolist() if values.dtype.hasobject else values.tobytes())
    else:
        digest.update(f"o{type(value).__qualname__}".encode())  # such as a picture that is read later


def _sums(weights: Tensor) -> bytes:
    """Of all bits of a weight, in whole numbers, so that it is the same on any device; and a sample in its order."""
    flat = weights.reshape(-1)
    sample = flat[:: max(1, flat.numel() // _SAMPLE)][:_SAMPLE].to("cpu", torch.float64).numpy().tobytes()
    try:
        bits = flat.contiguous().view(_INTEGERS[flat.element_size()])
        return sample + b" ".join(str(int(part.sum(dtype=torch.int64))).encode() for part in (bits, bits[::2]))
    except (RuntimeError, NotImplementedError, TypeError, KeyError):  # packed in a form of its own
        return sample


def _plain(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if str(key).startswith("_") or key in _NOT_CONFIG:
            continue
        if isinstance(value, Mapping):
            yield from _plain(value, f"{prefix}.{key}")
        elif isinstance(value, int | float | str):
            yield f"{prefix}.{key}", value
