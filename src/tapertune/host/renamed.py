"""Which module is which after loading has renamed them.

A config names modules: what is frozen in them, which ranks are left. Weights may be renamed on their way into a model
(by ``key_mapping``, or by transformers where an architecture has changed); what the config says must go along.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence

from .config import ChainConfig


def rename_modules(config: ChainConfig, modules: Sequence[str]) -> None:
    """Has a config's ``frozen`` and ``ranks`` name the modules of the model that it is put into.

    Warns of names for which there is no module.

    Args:
        config: changed in place.
        modules: paths of the modules that it adapts, in the model's order.
    """
    names = dict.fromkeys([*config.frozen, *config.ranks])
    if names.keys() <= set(modules):
        return
    renamed = match_modules(config.adapted_modules or list(names), modules, in_order=bool(config.adapted_modules))
    lost = [name for name in names if name not in renamed]
    if lost:
        warnings.warn(
            f"the adapter's config has frozen factors or ranks of modules that are not adapted in this model "
            f"({len(lost)}, such as {lost[0]!r}): nothing of these is frozen or pruned here",
            stacklevel=2,
        )
    config.frozen = {renamed[name]: factors for name, factors in config.frozen.items() if name in renamed}
    config.ranks = {renamed[name]: rank for name, rank in config.ranks.items() if name in renamed}


def match_modules(old: Sequence[str], new: Sequence[str], *, in_order: bool) -> dict[str, str]:
    """Old paths to new ones: those that are equal, then those with a common ending that no other has, the longest
    endings first; then, if as many are left of both, by their order.

    Args:
        in_order: whether ``old`` has all modules, in the model's order.

    >>> match_modules(["model.0.q", "model.0.k"], ["text.0.q", "text.0.k"], in_order=False)
    {'model.0.q': 'text.0.q', 'model.0.k': 'text.0.k'}
    """
    pairs = {name: name for name in old if name in set(new)}
    old = [name for name in old if name not in pairs]
    new = [name for name in new if name not in pairs]
    for length in range(max((name.count(".") + 1 for name in old), default=0), 0, -1):
        endings, counts = {_ending(name, length): name for name in new}, Counter(_ending(name, length) for name in new)
        mine = Counter(_ending(name, length) for name in old)
        for name in old:
            ending = _ending(name, length)
            if mine[ending] == counts[ending] == 1:
                pairs[name] = endings[ending]
        old = [name for name in old if name not in pairs]
        new = [name for name in new if name not in pairs.values()]
    if in_order and len(old) == len(new):
        pairs.update(zip(old, new, strict=True))
    return pairs


def _ending(name: str, length: int) -> str:
    return ".".join(name.split(".")[-length:])
