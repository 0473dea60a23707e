"""AFLoRA's released adapters. Both variants write the same keys; only the config of GSM8K's says what it is.

GLUE's multiplies the update by nothing, GSM8K's by alpha / r.
"""

from __future__ import annotations

from typing import Any

from .layout import (
    Format,
    Imported,
    check_rank_field,
    need_factors,
    one_rank,
    peft_fields,
    peft_key,
    saved_modules,
    split_keys,
)
from .peft_fields import LORA, check_fields
from .source import Source

_NAMES = {"lora_A": "A", "lora_d": "d", "lora_B": "B", "lora_db": "b"}
_KEY = peft_key("lora_A|lora_B|lora_d|lora_db")


def _ours(source: Source) -> bool:
    return source.has(r"\.lora_db(\.|$)")


def _glue(source: Source) -> bool:
    return _ours(source) and "lora_type" not in source.config


def _gsm8k(source: Source) -> bool:
    # without a config the file could be of either kind: then both match
    return _ours(source) and (not source.config or "lora_type" in source.config)


def _read(source: Source, format: str) -> tuple[Imported, int]:
    check_fields(source, LORA, closed=False)
    modules, rest = split_keys(source, _KEY, format)
    need_factors(source, modules, tuple(_NAMES))
    extras = saved_modules(source, rest, modules, r"\.lora_")
    r = one_rank(source, modules, "lora_A")
    check_rank_field(source, source.config.get("r"), r)
    renamed = {m: {_NAMES[name]: t for name, t in tensors.items()} for m, tensors in modules.items()}
    fields = peft_fields(source, modules, extras) | {"r": r, "dropout": source.config.get("lora_dropout") or 0.0}
    return Imported(method="aflora", fields=fields, modules=renamed, extras=extras), r


def read_glue(source: Source) -> Imported:
    imported, _ = _read(source, GLUE.name)
    heads = {name.split(".")[0] for name in imported.extras}
    if heads & {"classifier", "score"} and not any("pooler" in name for name in imported.extras):
        source.warnings.append(
            "the pooler is not in the file, though the released code left it at its random start: the outputs are those"
            " of training only with the same pooler (same seed)"
        )
    alpha = source.config.get("lora_alpha")
    fields: dict[str, Any] = {"scaling": "none"} | ({"lora_alpha": alpha} if alpha else {})
    return Imported(
        method=imported.method, fields=imported.fields | fields, modules=imported.modules, extras=imported.extras
    )


def read_gsm8k(source: Source) -> Imported:
    imported, _ = _read(source, GSM8K.name)
    alpha = source.need_alpha(GSM8K.name, source.config.get("lora_alpha"), "64 in the released script")
    fields = imported.fields | {"scaling": "alpha/r", "lora_alpha": alpha, "projection_scope": "all"}
    return Imported(method=imported.method, fields=fields, modules=imported.modules, extras=imported.extras)


GLUE = Format(name="aflora-glue", title="AFLoRA's GLUE code (no scaling)", matches=_glue, read=read_glue)
GSM8K = Format(name="aflora-gsm8k", title="AFLoRA's GSM8K code (alpha / r)", matches=_gsm8k, read=read_gsm8k)
