"""PEFT's VeRA adapters: vectors by module, and one pair of projections, saved or drawn again from its seed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...host import make_config
from ...host.factor_modules import shared_weights
from .layout import Format, Imported, check_rank_field, need_factors, peft_fields, peft_key, saved_modules, split_keys
from .peft_fields import VERA, check_fields
from .source import Source

_KEY = peft_key("vera_lambda_b|vera_lambda_d")
_PROJECTIONS = ("base_model.vera_A", "base_model.vera_B")


def _matches(source: Source) -> bool:
    return source.has(r"\.vera_lambda_b(\.|$)")


def read(source: Source) -> Imported:
    check_fields(source, VERA, closed=True)
    modules, rest = split_keys(source, _KEY, FORMAT.name)
    need_factors(source, modules, ("vera_lambda_b", "vera_lambda_d"))
    found = {key: rest.pop(key, rest.pop(f"{key}.default", None)) for key in _PROJECTIONS}
    a, b = found.values()
    extras = saved_modules(source, rest, modules, r"vera_")
    r = next(iter(modules.values()))["vera_lambda_d"].shape[0]
    check_rank_field(source, source.config.get("r"), r)
    key = source.config.get("projection_prng_key")
    if a is None or b is None:
        key = source.need("projection_prng_key", FORMAT.name)
    fields = peft_fields(source, modules, extras) | {
        "r": r,
        "dropout": source.config.get("vera_dropout") or 0.0,
        "d_initial": source.config.get("d_initial") or 0.1,
        "projection_prng_key": key or 0,
        "save_projection": False,
    }
    renamed = {m: {"d": t["vera_lambda_d"], "b": t["vera_lambda_b"]} for m, t in modules.items()}
    if a is not None and b is not None:
        _keep_projections(source, fields, renamed, a, b)
    return Imported(method="elora", fields=fields, modules=renamed, extras=extras)


def _keep_projections(
    source: Source, fields: dict[str, Any], modules: dict[str, dict[str, Tensor]], a: Tensor, b: Tensor
) -> None:
    """Saved projections that the seed gives again, bit for bit, need not be kept; others are kept by every module.

    The adapter's first module loads them, and which one that is, only the model tells.
    """
    fields["shared_sizes"] = {"d_in": a.shape[1], "d_out": b.shape[0]}
    config = make_config("elora", **fields)
    sizes = {"r": a.shape[0], **fields["shared_sizes"]}
    drawn = shared_weights(config.row.chain(config.settings()), sizes, config)
    if torch.equal(drawn["A"][0].tensor, a) and torch.equal(drawn["B"][0].tensor, b):
        source.warnings.append("the projections are those of projection_prng_key: they are drawn again, not saved")
        return
    fields["save_projection"] = True
    for tensors in modules.values():
        tensors |= {"A": a, "B": b}


FORMAT = Format(name="peft-vera", title="PEFT's VeRA", matches=_matches, read=read)
