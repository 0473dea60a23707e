"""Factors that learn at rates of their own, under an optimizer whose groups know nothing of them.

While the optimizer steps, each of its groups is split by factor, and put together again after it. Whatever sees it at
other times (schedulers, loss scalers, checkpoints) sees the groups that it was made with: a schedule needs no more
rates, and a checkpoint fits any version and any multiples.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import Any

from .optimizers import groups, members
from .parameter import AdapterParameter

RATIO = "lr_ratio"
"""The key by which a group says that its rate is its own already."""
_active: weakref.WeakKeyDictionary[Any, FactorRates] = weakref.WeakKeyDictionary()


class FactorRates:
    """Splits an optimizer's groups by factor and joins them.

    Args:
        optimizer: torch's, or one of its form; around others, all of them.
        ratios: gives the multiples of the rate, by identity of the parameter; asked at each step, as parameters may be
            made anew.
    """

    def __init__(self, optimizer: Any, ratios: Callable[[], Mapping[int, float]]) -> None:
        self._optimizer, self._ratios = optimizer, ratios
        self._whole: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = []
        self._changed: list[tuple[dict[str, Any], Any, Any, Any]] = []
        for one in members(optimizer):
            if hasattr(one, "__weakref__"):
                _active[one] = self

    def split(self) -> None:
        """Gives every factor its rate, until ``join``."""
        ratios = self._ratios()
        lists = {id(one.param_groups): one.param_groups for one in members(self._optimizer)}
        split: dict[int, list[dict[str, Any]]] = {}
        for group in groups(self._optimizer):
            split[id(group)] = [group] if RATIO in group else self._parts(group, ratios)
        for found in lists.values():
            parts = [part for group in found for part in split[id(group)]]
            if len(parts) != len(found):
                self._whole.append((found, list(found)))
                found[:] = parts

    def _parts(self, group: dict[str, Any], ratios: Mapping[int, float]) -> list[dict[str, Any]]:
        """The group itself with what learns at the first rate, and copies of it for other rates."""
        by_ratio: dict[float, list[Any]] = {}
        for parameter in group["params"]:
            by_ratio.setdefault(ratios.get(id(parameter), 1.0), []).append(parameter)
        rate = group.get("lr")
        if set(by_ratio) <= {1.0} or rate is None:
            return [group]
        (first, stays), *others = sorted(by_ratio.items(), key=lambda item: item[0] != 1)
        copies = [{**group, "params": own, "lr": rate * ratio} for ratio, own in others]
        self._changed.append((group, group["params"], rate, rate if first == 1 else rate * first))
        group["params"] = stays
        group["lr"] = self._changed[-1][3]
        return [group, *copies]

    def join(self) -> None:
        """Puts the groups together as they were; what the optimizer wrote into them meanwhile stays."""
        for found, whole in self._whole:
            found[:] = whole
        for group, parameters, rate, own in self._changed:
            group["params"] = parameters
            if group["lr"] is own:
                group["lr"] = rate
        self._whole, self._changed = [], []

    def stop(self) -> None:
        """Lets go of the optimizer."""
        self.join()
        for one in members(self._optimizer):
            if hasattr(one, "__weakref__") and _active.get(one) is self:
                del _active[one]

    def of(self, parameter: Any) -> float:
        """The multiple of a parameter's rate."""
        return self._ratios().get(id(parameter), 1.0)


def rates_of(optimizer: Any) -> dict[int, float]:
    """The learning rate of each of an optimizer's parameters, by identity, outside of a step."""
    own = _active.get(optimizer) if hasattr(optimizer, "__weakref__") else None
    ratios = {} if own is None else own._ratios()
    return {
        id(p): float(group["lr"]) * (1.0 if RATIO in group else ratios.get(id(p), 1.0))
        for group in groups(optimizer)
        for p in group["params"]
    }


def rates_for(
    optimizer: Any, handles: Collection[AdapterParameter], ratios: Mapping[str, float], *, follows: bool
) -> FactorRates | None:
    """What gives factors their rates; nothing where all are the run's.

    Args:
        optimizer: the run's.
        handles: the adapter's factors.
        ratios: multiples of the rate, by factor.
        follows: whether the optimizer steps on the adapter's own parameters; without, a warning says that all factors
            learn at one rate.
    """
    if not ratios:
        return None
    if not follows:
        warnings.warn(
            f"the optimizer ({type(optimizer).__name__}) does not step on the adapter's own parameters, so all factors "
            f"learn at one rate; factor_rates ({', '.join(ratios)}) are left out",
            stacklevel=4,
        )
        return None
    return FactorRates(optimizer, lambda: {id(h.parameter): ratios.get(h.factor, 1.0) for h in handles})
