"""What computes a row's states below a layer: whether it is still the same, and a digest of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from ..host.merged_weight import version

_SAMPLE = 16
_TUNER = ("_disable_adapters", "_active_adapter", "merged_adapters", "scaling")
_NOT_CONFIG = ("transformers_version", "architectures", "problem_type", "use_cache", "num_labels", "id2label",
               "label2id", "_name_or_path", "torch_dtype", "dtype", "classifier_dropout", "pad_token_id")  # fmt: skip


def tensors_of(modules: Iterable[nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers that modules hold themselves, each tensor once."""
    visited: set[int] = set()
    for module in modules:
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and id(tensor) not in visited:
                visited.add(id(tensor))
                yield name, tensor


class Prefix:
    """All that runs before layer ``level``.

    Args:
        early: the modules that run before it and are no part of a layer.
        layers: the model's, of which the first ``level`` count.
        level: k.
    """

    def __init__(self, early: Sequence[nn.Module], layers: Sequence[nn.Module], level: int) -> None:
        self.level = level
        parts = [list(early), *(list(layer.modules()) for layer in layers[:level])]
        self.modules = list(dict.fromkeys(module for part in parts for module in part))
        self._tuners = [[module for module in part if hasattr(module, "merged_adapters")] for part in parts]
        self._states: list[Any] = []
        self._marks: list[str] = []
        self._take()

    def _take(self) -> None:
        self._tensors = [tensor.detach() for _, tensor in tensors_of(self.modules)]
        self._versions = self._present()
        self._sample = self._values()

    def is_current(self) -> bool:
        """Whether every tensor is the one that it was, as far as can be seen at no cost: its place, how often it was
        written to, and a sample of its values, which writing to ``.data`` changes without telling."""
        if self._versions != self._present():
            return False
        return all(torch.equal(a, b) for a, b in zip(self._sample, self._values(), strict=True))

    def trains(self) -> bool:
        """Whether gradients are asked of anything in it."""
        return any(p.requires_grad for m in self.modules for p in m._parameters.values() if p is not None)

    def adapters(self) -> str:
        """Which adapters are at work in it."""
        at_work = {
            (getattr(module, "_disable_adapters", None), str(getattr(module, "_active_adapter", None)))
            for part in self._tuners
            for module in part
        }
        return str(sorted(map(str, at_work)))

    def marks(self) -> list[str]:
        """How the adapters below each layer up to this one are at work: the layers above one are no part of its mark,
        so that rows can be carried up."""
        states = [[[str(getattr(m, name, None)) for name in _TUNER] + [_is_merged(m)] for m in p] for p in self._tuners]
        if states != self._states:
            digest, self._marks = hashlib.blake2b(digest_size=8), []
            for part in states:
                digest.update(json.dumps(part).encode())
                self._marks.append(digest.hexdigest())
            self._states = states
        return self._marks

    def _present(self) -> list[tuple[int, int]]:
        return [(tensor.data_ptr(), version(tensor)) for _, tensor in tensors_of(self.modules)]

    def _values(self) -> list[Tensor]:
        """A sample of the values, a tensor for each number type."""
        if getattr(self, "_views", None) is None or self._viewed is not self._tensors:
            views: dict[Any, list[Tensor]] = {}
            for tensor in self._tensors:
                if tensor.numel() and tensor.is_contiguous() and tensor.device.type != "meta":
                    flat = tensor.view(-1)
                    part = flat[:: max(1, flat.numel() // _SAMPLE)][:_SAMPLE]
                    views.setdefault((tensor.dtype, tensor.device), []).append(part)
            self._views, self._viewed = list(views.values()), self._tensors
        return [torch.cat(parts) for parts in self._views]


def _is_merged(module: nn.Module) -> str:
    merged = vars(module).get("merged_weight")
    return str(getattr(merged, "request", ""))


def digests(early: Sequence[nn.Module], layers: Sequence[nn.Module], config: Any, level: int) -> list[str]:
    """A digest for each level up to ``level`` of all that runs below it: weights, buffers, adapters, config, versions
    of the libraries. What computes the same has the same, in another process too.

    Reads all the weights once.
    """
    digest = hashlib.blake2b(digest_size=16)
    device = next((tensor.device.type for _, tensor in tensors_of(early)), "cpu")
    values = config.to_dict() if hasattr(config, "to_dict") else {}
    plain = {k: v for k, v in values.items() if k not in _NOT_CONFIG and isinstance(v, int | float | str | bool | list)}
    facts = [torch.__version__, transformers.__version__, device, getattr(config, "_attn_implementation", None), plain]
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    _feed(digest, early)
    chain = [digest.hexdigest()]
    for layer in layers[:level]:
        _feed(digest, list(layer.modules()))
        chain.append(digest.hexdigest())
    return chain


def _feed(digest: Any, modules: Sequence[nn.Module]) -> None:
    for module in modules:
        digest.update(f"|{type(module).__qualname__}{getattr(module, 'scaling', '')}".encode())
    for name, tensor in tensors_of(modules):
        digest.update(f"|{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            digest.update(memoryview(flat.view(torch.uint8).numpy()))  # pyright: ignore[reportArgumentType]
