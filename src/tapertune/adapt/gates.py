"""The gates of a plan's rank components, read and written all together: a decision costs one transfer from the device,
however many modules there are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TapertuneError
from .actuators import mask, shrink, take
from .components import RankGroup
from .factor_rates import rates_of
from .optimizers import Cut, cut_state, uncuttable
from .parameter import Handle
from .sharding import gather

Cuts = dict[str, tuple[int, Tensor]]
"""By name of a factor, the axis along which it has been cut and the indices that stayed."""


class Gates:
    """The gates of some groups.

    Args:
        handles: of all the adapter's factors, by name.
        groups: the rank components.
    """

    def __init__(self, handles: Mapping[str, Handle], groups: Sequence[RankGroup]) -> None:
        self.handles, self.groups = handles, groups
        modules: dict[str, list[Handle]] = {}
        for handle in handles.values():
            modules.setdefault(handle.module, []).append(handle)
        self._along: dict[str, list[tuple[str, int]]] = {}
        for group in groups:
            width = handles[group.gate].symbols[0]
            members = (h for h in modules[group.module] if width in h.symbols)
            self._along[group.gate] = [(h.name, h.symbols.index(width)) for h in members]

    def parameters(self) -> list[nn.Parameter]:
        """The gates, by group."""
        return [self.handles[group.gate].parameter for group in self.groups]

    def sizes(self) -> dict[str, int]:
        """Components that each module has, masked or not."""
        return {g.module: self.handles[g.gate].parameter.numel() for g in self.groups}

    def ranks(self) -> dict[str, int]:
        """Components that each module has in use: those whose gate is not zero."""
        return {group.module: sum(used) for group, used in zip(self.groups, self._in_use(), strict=True)}

    def mask(self, keep: Mapping[str, Tensor]) -> None:
        """Sets to zero what is not kept, by gate."""
        if keep:
            mask([self.handles[name].parameter for name in keep], list(keep.values()))

    def shrink(self, threshold: float, form: str, training: set[str], rates: Any | None = None) -> None:
        """Soft-thresholds the gates that train.

        Args:
            threshold, form: see ``actuators.shrink``.
            training: names of the factors that train.
            rates: an optimizer whose learning rate for a gate multiplies the threshold; none: 1.
        """
        alike: dict[float, list[nn.Parameter]] = {}
        known = {} if rates is None else rates_of(rates)
        for gate in self._reached(group.gate for group in self.groups if group.gate in training):
            if rates is not None and id(gate) not in known:
                raise TapertuneError("policy.times_lr needs the gates among the optimizer's parameters")
            alike.setdefault(known.get(id(gate), 1.0), []).append(gate)
        for rate, gates in alike.items():
            shrink(gates, threshold * rate, form)

    def _reached(self, names: Iterable[str]) -> Iterator[nn.Parameter]:
        """Gates, without those of experts that this step has not reached."""
        for name in names:
            gate = self.handles[name].parameter
            if gate.grad is not None or not getattr(self.handles[name], "routed", False):
                yield gate

    def uncuttable(self, optimizer: Any) -> str | None:
        """Where an optimizer keeps what no one can cut with the factors, or None."""
        parameters = [(self.handles[n].parameter, axis) for along in self._along.values() for n, axis in along]
        return uncuttable(optimizer, [Cut(p, axis, torch.zeros(0, dtype=torch.long)) for p, axis in parameters])

    @torch.no_grad()
    def cut(self, keep: Mapping[str, Tensor], optimizer: Any | None) -> Cuts:
        """Removes components, with what the optimizer knows of them.

        Args:
            keep: by gate, the components that stay; of other gates those that are not zero do.
            optimizer: of the factors, which may be one of several.
        """
        names = list(keep)
        chosen = dict(zip(names, _flags(keep[name] for name in names), strict=True))
        stays: dict[str, list[int]] = {}
        for group, used in zip(self.groups, self._in_use(), strict=True):
            flags = chosen.get(group.gate, used)
            if not all(flags):
                stays[group.gate] = [i for i, stay in enumerate(flags) if stay]
        cuts = Cuts()
        for gate, index in zip(stays, self._indices(stays), strict=True):
            cuts.update((name, (axis, index)) for name, axis in self._along[gate])
        parts = [Cut(self.handles[name].parameter, axis, index) for name, (axis, index) in cuts.items()]
        if optimizer is not None:
            cut_state(optimizer, parts)
        for part in parts:
            take(*part)
        return cuts

    def _indices(self, by_gate: Mapping[str, Sequence[int]]) -> Sequence[Tensor]:
        """Lists of indices on the device, sent there at once."""
        if not by_gate:
            return []
        device = self.handles[next(iter(by_gate))].parameter.device
        flat = torch.tensor(list(itertools.chain(*by_gate.values())), dtype=torch.long)
        return flat.to(device).split([len(index) for index in by_gate.values()])

    def _in_use(self) -> list[list[bool]]:
        return _flags(gate.detach().flatten() for gate in gather(self.parameters()))


def _flags(tensors: Iterable[Tensor]) -> list[list[bool]]:
    """Which elements of some vectors are not zero, read from the device at once."""
    found = list(tensors)
    flags = torch.cat([t.to(found[0].device) != 0 for t in found]).tolist() if found else []
    edges = itertools.accumulate((len(t) for t in found), initial=0)
    return [flags[a:b] for a, b in itertools.pairwise(edges)]
