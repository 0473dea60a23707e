"""AdaLoRA from the authors' loralib (a full model's checkpoint) and from PEFT; LoRA^2, which extends the former.

The scaling is alpha / (initial rank + 1e-5) in all of them, whatever rank is left.
"""

from __future__ import annotations

from ...errors import TapertuneError
from ..saved import Modules
from .layout import (
    Format,
    Imported,
    beside_backbone,
    need_factors,
    one_rank,
    owners,
    peft_fields,
    peft_key,
    ranks_of,
    saved_modules,
    split_keys,
)
from .peft_fields import ADALORA as FIELDS
from .peft_fields import check_fields
from .source import Source

_LORALIB = r"(?:module\.)?(?!base_model\.)(?P<module>.+)\.(?P<factor>lora_A|lora_E|lora_B|lora_aa|lora_bb|ranknum)"
_PEFT = peft_key("lora_A|lora_E|lora_B")


def _loralib(source: Source) -> bool:
    return source.has(r"\.lora_E$") and not source.has(r"^base_model\.")


def _is_adalora(source: Source) -> bool:
    return _loralib(source) and not source.has(r"\.lora_aa$")


def _is_lora2(source: Source) -> bool:
    # lora_B is (r, k) here, where AdaLoRA's is (d_out, r): the presence of lora_aa tells them apart
    return _loralib(source) and source.has(r"\.lora_aa$")


def _is_peft(source: Source) -> bool:
    return source.has(r"^base_model\..*\.lora_E(\.|$)")


def _initial_rank(source: Source, modules: Modules) -> int:
    """``ranknum``, the initial rank for ever; a file of ``lora_`` keys alone lacks it, and masking keeps all rows."""
    rank = one_rank(source, modules, "lora_E")
    numbers = {round(float(t["ranknum"])) for t in modules.values() if "ranknum" in t}
    if not numbers:
        source.warnings.append(f"ranknum is not in the file: the initial rank is taken from lora_E, {rank}")
    elif numbers != {rank}:
        raise TapertuneError(f"{source.path}: ranknum is {sorted(numbers)}, lora_E has {rank} rows")
    return rank


def _read_loralib(source: Source, method: str, format: str, names: dict[str, str]) -> Imported:
    modules, rest = split_keys(source, _LORALIB, format)
    need_factors(source, modules, tuple(names))
    alpha = source.need_alpha(format, None, "the scripts use 16 or 32, by task")
    fields = {"init_r": _initial_rank(source, modules), "lora_alpha": alpha}
    if "lora_aa" in names:
        fields["k"] = one_rank(source, modules, "lora_A")
    extras = beside_backbone(source, modules, rest)
    renamed = {
        m: {ours: t[theirs].flatten() if ours == "E" else t[theirs] for theirs, ours in names.items()}
        for m, t in modules.items()
    }
    fields |= {"modules_to_save": owners(extras, modules) or None}
    return Imported(method=method, fields=fields, modules=renamed, extras=extras)


def read_adalora(source: Source) -> Imported:
    return _read_loralib(source, "adalora", ADALORA.name, {"lora_A": "A", "lora_E": "E", "lora_B": "B"})


def read_lora2(source: Source) -> Imported:
    names = {"lora_A": "A", "lora_B": "B", "lora_E": "E", "lora_aa": "aa", "lora_bb": "bb"}
    return _read_loralib(source, "lora2", LORA2.name, names)


def read_peft(source: Source) -> Imported:
    check_fields(source, FIELDS, closed=True)
    modules, rest = split_keys(source, _PEFT, PEFT.name)
    need_factors(source, modules, ("lora_A", "lora_E", "lora_B"))
    extras = saved_modules(source, rest, modules, r"\.(lora_|ranknum)")
    init_r = source.need("init_r", PEFT.name)
    alpha = source.need_alpha(PEFT.name, source.config.get("lora_alpha"), "as trained")
    fields = peft_fields(source, modules, extras)
    fields |= {"init_r": init_r, "lora_alpha": alpha, "dropout": source.config.get("lora_dropout") or 0.0}
    target = source.config.get("target_r")
    if target is not None and target < init_r:
        fields["target_r"] = target
    # the tensors are already of the ranks that rank_pattern leaves; the scaling stays that of init_r
    fields["ranks"] = ranks_of(modules, "lora_A", init_r)
    renamed = {m: {"A": t["lora_A"], "E": t["lora_E"].flatten(), "B": t["lora_B"]} for m, t in modules.items()}
    return Imported(method="adalora", fields=fields, modules=renamed, extras=extras)


ADALORA = Format(name="loralib-adalora", title="AdaLoRA's own loralib", matches=_is_adalora, read=read_adalora)
LORA2 = Format(name="loralib-lora2", title="LoRA^2's loralib", matches=_is_lora2, read=read_lora2)
PEFT = Format(name="peft-adalora", title="PEFT's AdaLoRA", matches=_is_peft, read=read_peft)
