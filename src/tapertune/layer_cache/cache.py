"""The cache: what enters the lowest layer that trains, kept by row while a model trains."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..adapt.sharding import is_sharded
from ..errors import TapertuneError
from .passes import Passes
from .prefix import Prefix, digests
from .randomness import Quiet, autocast_of, check_randomness, dropout_in, refuse_dropout
from .rows import Batch, as_batch, is_plain
from .settings import CacheSettings
from .stack import Stack, find_stack, parameters_of
from .store import Store

_log = logging.getLogger("tapertune")
_NEAR = {torch.float32: 1e-4, torch.float64: 1e-10}  # of a relative difference between two ways of one pass; else:
_NEAR_ELSE = 5e-2


def check_model(model: nn.Module, settings: CacheSettings) -> Stack:
    """The layers of a model that can be cached.

    Raises:
        TapertuneError: they are not found, what they make of a row is no constant, or they are split over processes.
    """
    stack = find_stack(model, settings.layers)
    last = {id(module) for module in stack.layers[-1].modules()}
    below = [(path, module) for path, module in stack.backbone.named_modules() if id(module) not in last]
    check_randomness(below, getattr(stack.backbone, "config", None))
    dropout = dropout_in(below)
    if dropout is not None and settings.dropout == "keep":
        raise refuse_dropout(dropout)
    for name, parameter in model.named_parameters():
        if is_sharded(parameter) or "FlatParameter" in type(parameter).__name__:
            raise TapertuneError(
                f"cache: {name} is split over processes (FSDP, DeepSpeed 3), which have to run all layers together"
            )
    return stack


class LayerCache:
    """Keeps what enters the lowest layer that trains, by row, and has later passes begin there.

    It follows ``requires_grad``: whatever freezes layers from the bottom up, the passes after that begin higher. The
    first layers to train are never left out, and nothing is where no layer is frozen.

    Args:
        model: the one that trains, in any wrapper.
        settings: limits, number type, folder.
        say: told in a line when caching ends early; without it, the line is logged as a warning of ``tapertune``.

    Attributes:
        level: the layer that passes begin at now; 0: they run whole.
        hits, carried, misses: rows that began at that layer, at an earlier one, or at the first.
        off: why nothing is cached any more, or None.

    Raises:
        TapertuneError: the layers are not found, the model is random or split over processes, or the folder cannot be
            used.
    """

    def __init__(self, model: nn.Module, settings: CacheSettings, say: Callable[[str], None] | None = None) -> None:
        self.settings, self._say = settings, say or _log.warning
        self._stack = check_model(model, settings)
        self._passes = Passes(self._stack)
        self.store = Store(settings, self._say, _process())
        self.level = self.hits = self.carried = self.misses = 0
        self.off: str | None = None
        self._prefix: Prefix | None = None
        self._digests: list[str] | None = None
        self._tags: list[str] = []
        self._quiet = Quiet(())
        self._stop: Callable[[], None] | None = None
        self._is_checked = False
        self._summary: dict[str, Any] = {}
        backbone = self._stack.backbone
        self._hooks = [
            backbone.register_forward_pre_hook(self._before, with_kwargs=True),
            backbone.register_forward_hook(self._after, always_call=True),
        ]

    # ---- hooks -------------------------------------------------------------------------------------------------------

    def _before(self, backbone: nn.Module, inputs: tuple[Any, ...], others: dict[str, Any]) -> None:
        if self.off is not None or self._stop is not None or torch.compiler.is_compiling():
            return
        level = self._frozen_layers()
        if not level:
            self.level = 0
            return
        arguments = {**dict(zip(parameters_of(type(backbone)), inputs, strict=False)), **others}
        if not is_plain(arguments) or self._needs_all(arguments):
            return
        if (self._prefix is None or not self._is_same(level)) and not self._enter(level, arguments):
            return
        self._tags = self._tags_now()
        batch = as_batch(arguments, self._variant())
        states = self._states(batch)
        if not self._is_checked:
            self._is_checked = True
            self._verify(batch, states)
        if self.off is None:
            self._stop = self._passes.begin_at(level, states, self._quiet)

    def _needs_all(self, arguments: dict[str, Any]) -> bool:
        """Whether the pass is to leave keys and values, or states, of all layers."""
        config = getattr(self._stack.backbone, "config", None)
        if getattr(config, "output_hidden_states", False) or getattr(config, "output_attentions", False):
            return True
        encodes = "encoder" in self._stack.path or self._stack.path.endswith("transformer.layer")
        if self._stack.layers[0].training or (encodes and not getattr(config, "is_decoder", False)):
            return False
        wanted = arguments.get("use_cache")
        return bool(getattr(config, "use_cache", False) if wanted is None else wanted)

    def _after(self, backbone: nn.Module, inputs: Any, output: Any) -> None:
        if self._stop is not None:
            stop, self._stop = self._stop, None
            stop()

    def _frozen_layers(self) -> int:
        """How many of the lowest layers nothing trains in; the last is never one."""
        for number, layer in enumerate(self._stack.layers[:-1]):
            if any(parameter.requires_grad for parameter in layer.parameters()):
                return number
        return len(self._stack.layers) - 1

    def _is_same(self, level: int) -> bool:
        """Whether what is below is what it was."""
        assert self._prefix is not None, "there is one"
        return self._prefix.level == level and self._prefix.is_current()

    def _enter(self, level: int, arguments: dict[str, Any]) -> bool:
        """Takes up what is below a layer now; False where something below trains."""
        before = self._prefix
        layers = list(self._stack.layers)
        early = self._passes.learn(level, as_batch(arguments, b"").part([0]))
        prefix = Prefix(early, layers, level)
        if prefix.trains():
            below = {id(p) for m in prefix.modules for p in m._parameters.values() if p is not None}
            names = [n for n, p in self._stack.backbone.named_parameters() if p.requires_grad and id(p) in below]
            self._end(f"{names[0]} trains, which runs before layer {level}")
            return False
        # rows of before hold where the layers below theirs are what they were
        if before is not None and not (level > before.level and before.is_current()):
            self.store.clear()
        if self.settings.folder is not None:
            config = getattr(self._stack.backbone, "config", None)
            self._digests = digests(early, layers, config, level)
        self._prefix, self.level = prefix, level
        if self.settings.folder is not None:
            self.store.forget_others(self._tags_now())
        self._quiet = Quiet(prefix.modules if self.settings.dropout == "off" else ())
        return True

    def _variant(self) -> bytes:
        """What decides beside a row and the weights what becomes of it."""
        assert self._prefix is not None, "entered"
        trains, grads = self._stack.layers[0].training, torch.is_grad_enabled()
        return f"{trains}{grads}{autocast_of(self._device)}{self._prefix.adapters()}".encode()

    def _tags_now(self) -> list[str]:
        """What rows are marked with that enter each layer up to the present one: what has computed them."""
        assert self._prefix is not None, "entered"
        marks, digests = self._prefix.marks(), self._digests
        return marks if digests is None else [f"{d}-{mark}" for d, mark in zip(digests, marks, strict=True)]

    # ---- rows --------------------------------------------------------------------------------------------------------

    def _states(self, batch: Batch) -> Tensor:
        """What enters the layer for each row of a batch: kept, carried up from an earlier layer, or computed."""
        found: dict[int, Tensor] = {}
        groups: dict[int, list[int]] = {}
        for row, key in enumerate(batch.keys):
            start = self.store.level(key, self._tags)
            if start and (states := self._read(batch, row)) is not None:
                found[row] = states
                groups.setdefault(start, []).append(row)
            else:
                groups.setdefault(0, []).append(row)
        parts = [(rows, self._from(batch, rows, start, found)) for start, rows in sorted(groups.items())]
        if len(parts) == 1:
            return parts[0][1]
        whole = parts[0][1].new_empty((batch.size, *parts[0][1].shape[1:]))
        for rows, states in parts:
            whole[rows] = states
        return whole

    def _from(self, batch: Batch, rows: list[int], start: int, found: dict[int, Tensor]) -> Tensor:
        """States of rows that are known where they enter a layer, or, at 0, not at all."""
        if not start:
            self.misses += len(rows)
            return self._computed(batch, rows, 0, None)
        length = found[rows[0]].shape[0] if batch.length is None else batch.length
        if self._passes.dtype is None or not self._passes.knows_rests(start, length, batch.device):
            twice = [rows[0], rows[0]]  # so that what differs by row is told from what does not
            self._passes.up_to(start, batch.part(twice), 0, None, self._quiet)
        states = self._padded(batch, rows, found)
        if start == self.level:
            self.hits += len(rows)
            return states
        self.carried += len(rows)
        return self._computed(batch, rows, start, states)

    def _computed(self, batch: Batch, rows: list[int], start: int, states: Tensor | None) -> Tensor:
        """States of rows that enter the layer, computed from an earlier one, and kept."""
        states = self._passes.up_to(self.level, batch.part(rows), start, states, self._quiet).detach()
        if batch.length is not None and states.shape[1] != batch.length:
            raise TapertuneError(
                f"cache: the layers have {states.shape[1]} positions for {batch.length} tokens, and which is whose is "
                "not known"
            )
        states = self.store.rounded(states)
        for place, row in enumerate(rows):
            first, end = batch.spans[row] if batch.length is not None else (0, states.shape[1])
            self.store.write(batch.keys[row], states[place, first:end], self.level, self._tags[self.level])
        return states

    def _read(self, batch: Batch, row: int) -> Tensor | None:
        """A row's states as they are kept, (real tokens, width); None where they are lost."""
        states = self.store.read(batch.keys[row])
        first, end = batch.spans[row]
        if states is None or states.dim() != 2 or (batch.length is not None and states.shape[0] != end - first):
            return None
        return states

    def _padded(self, batch: Batch, rows: list[int], found: dict[int, Tensor]) -> Tensor:
        """The rows' states on the model's device, zeros where there is padding: (rows, positions, width)."""
        parts = [found[row] for row in rows]
        if batch.length is None:
            return torch.stack(parts).to(batch.device, self._passes.dtype)
        whole = torch.zeros((len(rows), batch.length, parts[0].shape[1]), dtype=self._passes.dtype)
        for place, row in enumerate(rows):
            first, end = batch.spans[row]
            whole[place, first:end] = found[row]
        return whole.to(batch.device)

    # ---- check and end -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _verify(self, batch: Batch, states: Tensor) -> None:
        """Computes one pass both ways: an architecture whose layers hand on more than their states shows here."""
        quiet = Quiet(self._stack.backbone.modules())
        quiet.on()
        try:
            whole = _first(self._stack.backbone.forward(**batch.arguments))
            for self._passes.skips_embedding in (True, False):
                stop = self._passes.begin_at(self.level, states, Quiet(()))
                try:
                    late = _first(self._stack.backbone.forward(**batch.arguments))
                except torch.OutOfMemoryError:
                    raise
                except Exception:  # whatever an architecture may miss of the layers that did not run
                    continue
                finally:
                    stop()
                if self._are_near(batch, whole, late):
                    return
        finally:
            quiet.off()
        self._end(
            f"{type(self._stack.backbone).__name__} computes something else when its first {self.level} layers are "
            "handed their result: it hands on more than the layers' states"
        )

    def _are_near(self, batch: Batch, whole: Tensor, late: Tensor) -> bool:
        if whole.shape != late.shape:
            return False
        exact = self.settings.dtype == "auto" and not autocast_of(self._device)
        bound = _NEAR.get(whole.dtype, _NEAR_ELSE) if exact else _NEAR_ELSE
        real = torch.zeros(whole.shape[:2], dtype=torch.bool, device=whole.device)
        for row, (first, end) in enumerate(batch.spans):
            real[row, first : end if batch.length is not None else None] = True
        a, b = whole[real].float(), late[real].float()
        return bool((a - b).abs().max() <= bound * a.abs().max()) or not bool(a.isfinite().all())

    @property
    def _device(self) -> torch.device:
        return next(self._stack.backbone.parameters()).device

    def _end(self, why: str) -> None:
        """Caches nothing more; the passes go on whole."""
        self.off, self.level = why, 0
        self.store.clear()
        self._say(f"cache: nothing is kept: {why}; training goes on without it")

    def save(self) -> None:
        """In a folder, has the rows of now found again by a run that goes on from here."""
        if self._hooks:
            self.store.save()

    def close(self) -> None:
        """Leaves the model as it was; rows in a folder stay there."""
        for hook in self._hooks:
            hook.remove()
        if self._hooks:
            self._summary = self.summary()
            self.store.close()
        self._hooks = []

    def summary(self) -> dict[str, Any]:
        """Counts of rows and bytes, and the settings that change what is computed."""
        if not self._hooks:
            return dict(self._summary)
        total = self.hits + self.carried + self.misses
        return {
            "layer": self.level,
            "layers": len(self._stack.layers),
            "hits": self.hits,
            "carried": self.carried,
            "misses": self.misses,
            "hit_rate": self.hits / total if total else 0.0,
            "rows": self.store.rows,
            "memory_bytes": self.store.peak_bytes,
            "disk_bytes": self.store.disk_bytes,
            "dtype": self.settings.dtype,
            "dropout": self.settings.dropout,
            "off": self.off,
        }


def _first(output: Any) -> Tensor:
    """The states that a backbone returns: (rows, positions, width)."""
    return output if isinstance(output, Tensor) else output[0]


def _process() -> int:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if ready else 0
