"""Adapters of stacked experts in the forms that others read: stacked as PEFT has them, or matrix by matrix.

tapertune has a module for each matrix of a parameter: ``mlp.experts.gate_up_proj.3``. PEFT's LoRA (since 0.18) has two
tensors for all of them, ``mlp.experts.base_layer.lora_A`` for the first adapted parameter of a module and
``mlp.experts.lora_A`` for the last, which vLLM reads for models that it has as 3D weights, and SGLang too. Adapters of
older transformers, which vLLM and SGLang read for all others, have the matrices as they are on disk, gate and up apart:
``mlp.experts.3.gate_proj.lora_A``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..errors import TapertuneError
from ..host import ChainConfig
from ..host.paths import ends, owner_of
from .saved import SavedAdapter
from .shapes import HeldShape

_GATE_UP, _DOWN = "gate_up_proj", "down_proj"
_NAMES = ("gate_proj", "up_proj", "down_proj")
_OLDER_NAMES = {  # of model types whose checkpoints have others, with what stands for the parameters' parent there
    "mixtral": ("block_sparse_moe", ("w1", "w3", "w2")),
    "phimoe": ("block_sparse_moe", ("w1", "w3", "w2")),
    "minimax": ("block_sparse_moe", ("w1", "w3", "w2")),
}


def parameter_of(config: ChainConfig, module: str) -> tuple[str, int] | None:
    """The parameter that a module of an adapter is part of, and which of its matrices it is; None for a layer."""
    names = config.target_parameters or ()
    path, _, last = module.rpartition(".")
    if last.isdigit() and any(ends(path, name) for name in names):
        return path, int(last)
    return (module, -1) if any(ends(module, name) for name in names) else None


def stacked_names(parameters: Iterable[str], held: Mapping[str, HeldShape]) -> dict[str, str]:
    """What PEFT calls the layer of each adapted parameter: it wraps a module once a parameter, the first one innermost.

    Raises:
        TapertuneError: several of one module, and nobody says which is first.
    """
    homes: dict[str, list[str]] = {}
    for path in parameters:
        homes.setdefault(owner_of(path), []).append(path)
    names = {}
    for home, paths in homes.items():
        ordered = sorted(paths, key=lambda path: _order(path, held, alone=len(paths) == 1))
        for depth, path in enumerate(reversed(ordered)):
            names[path] = home + ".base_layer" * depth
    return names


def _order(path: str, held: Mapping[str, HeldShape], *, alone: bool) -> int:
    last = path.rpartition(".")[2]
    if path in held:
        return held[path].order
    known = ("gate_up_proj", "up_proj", "down_proj")
    if last in known or alone:
        return known.index(last) if last in known else 0
    home = owner_of(path)
    raise TapertuneError(f"in which order {home} has its parameters is not known: name the base model (--base)")


def stacked_pair(pairs: Mapping[int, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The matrices' factors as PEFT stacks them: A (experts * r, d_in), B (d_out, r * experts), in which the expert
    counts slowest in A's rows and fastest in B's columns.

    Args:
        pairs: (down, up) of one rank, by the matrix's index, or under -1 alone.
    """
    ordered = [pairs[index] for index in sorted(pairs)]
    return torch.cat([down for down, _ in ordered]), torch.stack([up for _, up in ordered], 2).flatten(1)


def one_by_one(adapter: SavedAdapter, held: Mapping[str, HeldShape], model_type: str | None) -> SavedAdapter:
    """An adapter with its experts' matrices under the names that checkpoints have for them, gate and up apart.

    Args:
        adapter: with experts, or without: then it is as it was.
        held: the base's parameters that hold matrices.
        model_type: the base's, of transformers.
    """
    modules = {}
    for module, tensors in adapter.modules.items():
        place = parameter_of(adapter.config, module)
        if place is None or place[1] < 0:
            modules[module if place is None else module.removesuffix(".weight")] = tensors
            continue
        parts = _rows(adapter, module, held.get(place[0], HeldShape(order=0)))
        names = _names_on_disk(*place, model_type)
        modules |= dict(zip(names, parts, strict=True))
    return dataclasses.replace(adapter, modules=modules)


def _names_on_disk(parameter: str, index: int, model_type: str | None) -> list[str]:
    home, _, name = parameter.rpartition(".")
    parent, (gate, up, down) = _OLDER_NAMES.get(model_type or "", ("", _NAMES))
    if parent:
        home = ".".join([*home.split(".")[:-2], parent, home.split(".")[-1]])
    own = {_GATE_UP: [gate, up], _DOWN: [down], "up_proj": [up]}.get(name)
    if own is None:
        raise TapertuneError(f"experts 'each': by what names the matrices of {parameter} are read is not known")
    return [f"{home}.{index}.{last}" for last in own]


def _rows(adapter: SavedAdapter, module: str, shape: HeldShape) -> list[dict[str, Tensor]]:
    """The factors of the matrices that one holds: of gate and up, the rows of each."""
    tensors = adapter.modules[module]
    if not owner_of(module).endswith(f".{_GATE_UP}"):
        return [dict(tensors)]
    half = adapter.widths(module)[0] // 2
    cuts = [slice(0, None, 2), slice(1, None, 2)] if shape.interleaved else [slice(0, half), slice(half, None)]
    return [{f.name: _cut(tensors[f.name], f.symbols, cut) for f in adapter.chain} for cut in cuts]


def _cut(tensor: Tensor, symbols: tuple[str, ...], cut: slice) -> Tensor:
    return tensor[tuple(cut if symbol == "d_out" else slice(None) for symbol in symbols)]
