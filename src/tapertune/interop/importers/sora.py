"""SoRA's released checkpoints: OpenDelta's parallel modules, ``<module>.lora.{lora_A, lora_B, gate}``."""

from __future__ import annotations

from typing import Any

from ..fields import check_type
from ..folder import read_foreign_json
from .layout import Format, Imported, beside_backbone, need_factors, one_rank, owners, split_keys
from .source import Source

_KEY = r"(?:module\.)?(?P<module>.+)\.lora\.(?P<factor>lora_A|lora_B|gate)"


def _matches(source: Source) -> bool:
    return source.has(r"\.lora\.gate$")


def read(source: Source) -> Imported:
    modules, rest = split_keys(source, _KEY, FORMAT.name)
    need_factors(source, modules, ("lora_A", "lora_B", "gate"))
    folder = source.path if source.path.is_dir() else source.path.parent
    delta: dict[str, Any] = read_foreign_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    for name in ("lora_alpha", "lora_dropout"):
        check_type(folder / "config.json", name, delta.get(name), float | None)
    alpha = source.need_alpha(FORMAT.name, delta.get("lora_alpha"), "16 in the released scripts")
    extras = beside_backbone(source, modules, rest)
    fields = {
        "r": one_rank(source, modules, "lora_A"),
        "lora_alpha": alpha,
        "dropout": delta.get("lora_dropout") or 0.0,
        "modules_to_save": owners(extras, modules) or None,
    }
    renamed = {m: {"A": t["lora_A"], "g": t["gate"].flatten(), "B": t["lora_B"]} for m, t in modules.items()}
    return Imported(method="sora", fields=fields, modules=renamed, extras=extras)


FORMAT = Format(name="sora", title="SoRA's released code (OpenDelta)", matches=_matches, read=read)
