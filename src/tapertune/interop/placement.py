"""Which of a checkpoint's tensors an adapter changes, replaces or adds, and under what names.

What is right is what the model in memory computes. A module saved whole is a copy of its own there, also of a tied
weight: then head and embedding differ, and each is written. A weight that the file holds beside the adapter without
such a copy, such as an adapted head's own, is loaded into the model, for every name that it has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import TapertuneError
from .architecture import Architecture, find_architecture, untied, untied_fields
from .checkpoint import CONV1D_MODELS, FLOATS, Checkpoint, Entry
from .layer_kinds import base_path, weight_path
from .names import Names, find_names
from .saved import SavedAdapter

_TOKENS = ".token_adapter.trainable_tokens_delta"
_HEADS = ("lm_head", "embed_out", "output_projection")
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "shared", "embed_in")


@dataclass(frozen=True)
class Value:
    """What a weight of the merged model is.

    Attributes:
        start: the checkpoint's weight, or one that the adapter holds.
        module: the adapted module whose update is added; None for none.
        transposed: whether the weight is stored (d_in, d_out).
    """

    start: Tensor | Entry
    module: str | None = None
    transposed: bool = False

    def same(self, other: Value) -> bool:
        """Whether both are one weight."""
        if self.module or other.module or isinstance(self.start, Entry) or isinstance(other.start, Entry):
            return self == other if isinstance(self.start, Entry) and isinstance(other.start, Entry) else self is other
        return self.start.shape == other.start.shape and torch.equal(self.start, other.start)


@dataclass
class Job:
    """What becomes of the checkpoint's tensors.

    Attributes:
        values: weights that are not as the checkpoint has them, by the name that they are written under.
        entries: the checkpoint's tensors by name.
        prefix: put before every name of the checkpoint.
        partial: whether the adapter is of a part of the checkpoint's model alone, as of an encoder without its head.
        architecture: the class of the merged model, where transformers has it.
        config: the merged model's.
        warnings: what a user should know, a line each.
        rounding: the largest part of a module's update that was lost to its weight's dtype (Frobenius).
    """

    values: dict[str, Value] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    prefix: str = ""
    partial: bool = False
    architecture: Architecture | None = None
    config: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    rounding: float = 0.0
    _squares: tuple[float, float] = (0.0, 0.0)

    def add_rounding(self, lost: float, size: float) -> None:
        """Notes the squared norms of what a module's update lost to its weight's dtype, and of the update."""
        self.rounding = max(self.rounding, (lost / size) ** 0.5 if size else 0.0)
        self._squares = self._squares[0] + lost, self._squares[1] + size

    @property
    def lost(self) -> float:
        """The part of all updates together that was lost to the weights' dtype (Frobenius)."""
        lost, size = self._squares
        return (lost / size) ** 0.5 if size else 0.0

    @property
    def added(self) -> list[str]:
        return sorted(name for name in self.values if name not in self.entries)

    @property
    def replaced(self) -> list[str]:
        whole = (name for name, value in self.values.items() if value.module is None)
        return sorted(name for name in whole if name in self.entries)


def place(checkpoint: Checkpoint, adapter: SavedAdapter, base: str, *, updates: bool = True) -> Job:
    """
    Args:
        checkpoint: the base.
        adapter: whose updates and whole weights are placed.
        base: the base's name, for messages.
        updates: whether modules get their updates; without, whole weights alone are placed.

    Raises:
        TapertuneError: a module without a weight, shapes that differ, a quantised weight, weights of which nobody can
            say whether they are tied.
    """
    architecture = find_architecture(checkpoint, adapter)
    job = Job(entries=checkpoint.entries, architecture=architecture, config=dict(checkpoint.config))
    ties = architecture.ties if architecture else _guess_ties(checkpoint, adapter, base)
    names = _names(job, adapter, ties, base)
    job.partial = bool(names.add)
    placing = _Placing(job, adapter, names, ties, base)
    placing.extras()
    transposed = _conv1d(checkpoint, adapter, placing)
    if updates:
        placing.updates(transposed)
    placing.ties_ended()
    if job.added and names.strip and not names.add:
        # a checkpoint of the bare encoder is read with its prefix left out; with a head beside it, it needs the prefix
        job.prefix = names.strip
    _warn(job, adapter)
    return job


def _guess_ties(checkpoint: Checkpoint, adapter: SavedAdapter, base: str) -> list[frozenset[str]]:
    """The tied names of a model that transformers does not have: the head's and the embedding's, if so configured."""
    entries, tie = checkpoint.entries, checkpoint.config.get("tie_word_embeddings")
    paths = [weight_path(module, adapter.kind(module)) for module in adapter.modules] + list(adapter.extras)
    paths = [path.replace(".base_layer.", ".") for path in paths]
    heads = [path for path in paths if _last(path) in _HEADS]
    trained = [path for path in paths if _last(path) in _EMBEDDINGS]
    if any(_last(name) in _HEADS for name in entries) or tie is False or not (heads or trained):
        return []
    generates = str(adapter.config.task_type).endswith("CAUSAL_LM")
    if not heads and tie is None and not generates:
        raise TapertuneError(
            f"{base}: config.json does not say whether {trained[0]} is the output head, too: add tie_word_embeddings"
        )
    embeddings = [name for name in entries if _last(name) in _EMBEDDINGS]
    if len(embeddings) != 1:
        raise TapertuneError(
            f"{base} has no weight for the output head, and not one embedding that it could be tied to"
        )
    return [frozenset([heads[0] if heads else "lm_head.weight", trained[0] if trained else embeddings[0]])]


def _last(path: str) -> str:
    return path.removesuffix(".weight").split(".")[-1]


def _names(job: Job, adapter: SavedAdapter, ties: list[frozenset[str]], base: str) -> Names:
    """Those of modules with weights of their own; of a model with none such, those of the tied weight."""
    modules = [base_path(m) for m in adapter.modules if adapter.kind(m).type != "MultiheadAttention"]
    own = [m for m in modules if not any(f"{m}.weight" in group for group in ties)]
    if own:
        return find_names(own, job.entries, base)
    for path in sorted(path for group in ties for path in group):
        if path in job.entries:
            return Names()
    tied = sorted(path.removesuffix(".weight") for group in ties for path in group)
    for module in tied:
        try:
            return find_names([module], job.entries, base)
        except TapertuneError:
            continue
    return find_names(modules, job.entries, base)


class _Placing:
    """Values by the model's paths, then by the names that they are written under."""

    def __init__(self, job: Job, adapter: SavedAdapter, names: Names, ties: list[frozenset[str]], base: str) -> None:
        self.job, self.adapter, self.names, self.base = job, adapter, names, base
        self.groups = {path: group for group in ties for path in group}

    def written(self, path: str) -> str:
        """The name that a path's weight has in the checkpoint, or gets."""
        mapped = self.names(path)
        if path in self.job.entries or mapped is None:
            return path
        return mapped if mapped in self.job.entries or self.names.add else path

    def stored(self, path: str) -> Entry | None:
        """The checkpoint's weight of a path, under whichever of its tied names it is there."""
        for name in (path, *sorted(self.groups.get(path, ()))):
            if (entry := self.job.entries.get(self.written(name))) is not None:
                return entry
        return None

    def start(self, path: str) -> Tensor | Entry | None:
        value = self.job.values.get(self.written(path))
        return value.start if value is not None else self.stored(path)

    def extras(self) -> None:
        """Modules saved whole, and weights that belong to the model itself."""
        for path, tensor in self.adapter.extras.items():
            if path.endswith(_TOKENS):
                self._tokens(path.removesuffix(_TOKENS), tensor)
                continue
            own = path.replace(".base_layer.", ".")
            self._check(own, tensor)
            if own != path and own.removesuffix(".weight").removesuffix(".bias") not in self.adapter.modules:
                raise TapertuneError(f"the adapter holds a weight for {own}, which it does not adapt")
            value = Value(tensor)
            self.job.values[self.written(own)] = value
            if own == path and self._is_copy(path):
                continue
            for name in self.groups.get(own, ()):
                self.job.values.setdefault(self.written(name), value)

    def _tokens(self, module: str, rows: Tensor) -> None:
        """Embeddings of single tokens, which a tied head shares."""
        path = f"{module}.weight"
        entry, numbers = self.stored(path), token_numbers(self.adapter.config, module)
        if entry is None:
            raise TapertuneError(f"{self.base} has no weight for the trained tokens of {module}")
        check_dtype(entry, self.base)
        check_shape(f"{module}'s tokens", tuple(rows.shape), (len(numbers), *entry.shape[1:]), self.base)
        if max(numbers) >= entry.shape[0]:
            raise TapertuneError(f"{module} of {self.base} has {entry.shape[0]} tokens, no token {max(numbers)}")
        weight = entry.read()
        weight[torch.tensor(numbers)] = rows.to(weight.dtype)
        value = Value(weight)
        for name in self.groups.get(path, (path,)):
            self.job.values[self.written(name)] = value

    def _is_copy(self, path: str) -> bool:
        """Whether a saved weight is of a module in ``modules_to_save``: its own, whatever it was tied to."""
        owners = self.adapter.config.modules_to_save or ()
        parts = path.split(".")
        modules = (".".join(parts[:i]) for i in range(1, len(parts)))
        return any(module == owner or module.endswith(owner) for module in modules for owner in owners)

    def _check(self, path: str, tensor: Tensor) -> None:
        entry = self.stored(path)
        if entry is not None:
            check_dtype(entry, self.base)
            check_shape(path, tuple(tensor.shape), entry.shape, self.base)

    def updates(self, transposed: bool) -> None:
        for module in self.adapter.modules:
            kind = self.adapter.kind(module)
            path = weight_path(module, kind)
            start = self.start(path)
            if start is None:
                raise TapertuneError(f"{self.base} has no weight for the adapted module {module}")
            turned = kind.embeds or (transposed and kind.type == "Linear" and path not in self.groups)
            self.job.values[self.written(path)] = Value(start, module, turned)

    def ties_ended(self) -> None:
        """Writes every name of a weight of which one name has changed."""
        changed = [g for g in dict.fromkeys(self.groups.values()) if not self._still_one(g)]
        if not changed:
            return
        job, architecture = self.job, self.job.architecture
        groups = changed
        if architecture is None:
            job.config = untied_fields(job.config)
        elif (config := untied(job.config, architecture.name, changed)) is not None:
            job.config, groups = config, list(dict.fromkeys(self.groups.values()))  # it unties all there are
        for path in sorted(path for group in groups for path in group):
            name, entry = self.written(path), self.stored(path)
            if name not in job.values and name not in job.entries and entry is not None:
                job.values[name] = Value(entry)

    def _still_one(self, group: frozenset[str]) -> bool:
        values = [self.job.values.get(self.written(path)) for path in sorted(group)]
        if all(value is None for value in values):
            return True
        first = values[0]
        one = first is not None and all(value is not None and value.same(first) for value in values)
        if one:  # under the names that the checkpoint has, and no others
            for path in group:
                if self.written(path) not in self.job.entries:
                    del self.job.values[self.written(path)]
        return one


def token_numbers(config: Any, module: str) -> list[int]:
    """The numbers of a module's trained tokens."""
    given = config.trainable_token_indices
    if isinstance(given, dict):
        hits = [numbers for name, numbers in given.items() if module == name or module.endswith("." + name)]
        given = hits[0] if hits else None
    if not given:
        raise TapertuneError(
            f"the adapter holds tokens of {module}, and its config names none (trainable_token_indices)"
        )
    return list(given)


def check_dtype(entry: Entry, base: str) -> None:
    if entry.dtype not in FLOATS:
        raise TapertuneError(
            f"{base} is quantised ({entry.name} is {entry.dtype}): merge into the weights it was quantised from"
        )


def check_shape(module: str, adapted: tuple[int, ...], found: tuple[int, ...], base: str) -> None:
    if adapted != found:
        raise TapertuneError(f"{module}: the adapter is for a weight of shape {adapted}, {base} has {found}")


def _conv1d(checkpoint: Checkpoint, adapter: SavedAdapter, placing: _Placing) -> bool:
    """Whether weights are stored (d_in, d_out); the shapes tell, unless all are square: then the architecture does.

    Raises:
        TapertuneError: a module has no weight, or one of another shape.
    """
    paths = {m: weight_path(m, adapter.kind(m)) for m in adapter.modules}
    entries = {m: placing.stored(path) for m, path in paths.items()}
    for module, entry in entries.items():
        if entry is None:
            raise TapertuneError(f"{placing.base} has no weight for the adapted module {module}")
        check_dtype(entry, placing.base)
    weights = {
        m: entry
        for m, entry in entries.items()
        if entry is not None and paths[m] not in placing.groups and adapter.kind(m).type == "Linear"
    }
    unequal = [m for m in weights if len(set(adapter.widths(m))) > 1]
    transposed = checkpoint.config.get("model_type") in CONV1D_MODELS
    if unequal:
        transposed = weights[unequal[0]].shape == adapter.widths(unequal[0])[::-1]
    for module, entry in entries.items():
        assert entry is not None, "checked above"
        shape = entry.shape[::-1] if transposed and module in weights else entry.shape
        check_shape(module, adapter.kind(module).stored_shape(adapter.widths(module)), shape, placing.base)
    return transposed


def _warn(job: Job, adapter: SavedAdapter) -> None:
    changed = {job.entries[name].dtype for name, v in job.values.items() if v.module and name in job.entries}
    half = sorted(dtype for dtype in changed if FLOATS[dtype].itemsize == 2)
    if not adapter.chain.linear and half:
        job.warnings.append(
            f"the weights are {', '.join(half)}, which cannot hold the fine structure of {adapter.config.method}'s map:"
            " of its non-linear part little or nothing is left; merge into a float32 base"
        )
    if job.added:
        added = ", ".join(f"{name} {tuple(job.values[name].start.shape)}" for name in job.added)
        job.warnings.append(f"added to the base: {added}; load with the model class that has them")
