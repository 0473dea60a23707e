"""What an adapter on disk is, from its config and the header of its weights alone: no tensor is loaded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union

from pydantic import Field

from ..errors import TapertuneError
from .fields import check_type
from .folder import CONFIG, OURS, WEIGHTS, check_inside, read_foreign_json

SCHEMA_VERSION = 1
"""Of adapters' configs, up to which they are read; the host's own, which is not there without PEFT."""


_Scale = Annotated[float, Field(gt=0, lt=2**63, description="a number above 0")]
_Rank = Annotated[int, Field(ge=0, le=1 << 20, description="a whole number from 0 to 1048576")]
_Modules = list[str] | str | None
_FIELDS: dict[str, Any] = {
    "peft_type": str,
    "base_model_name_or_path": str | None,
    "task_type": str | None,
    "r": Union[_Rank, None],  # noqa: UP007 (of what is annotated)
    "lora_alpha": Union[_Scale, None],  # noqa: UP007
    "use_rslora": bool | None,
    "target_modules": _Modules,
    "modules_to_save": list[str] | None,
    "frozen": dict[str, list[str]] | None,
    "ranks": dict[str, _Rank] | None,
    "coverage": dict[str, int | float | str] | None,
    "peft_version": str | None,
    "schema_version": int | None,
}
"""What is shown of a config, or counted with."""


class Entry(NamedTuple):
    """A tensor of the weights file: where it belongs, and its size. ``factor`` is empty outside the adapter."""

    module: str
    factor: str
    parameters: int
    dtype: str


def describe_adapter(folder: Path) -> dict[str, Any]:
    """Facts about an adapter, read from ``adapter_config.json`` and the safetensors header; no tensor is loaded.

    Raises:
        TapertuneError: a file is missing, cut short or of a newer schema.
    """
    config = _read_config(folder)
    peft_type = str(config["peft_type"])
    ours = peft_type.startswith(OURS)
    entries = _read_header(folder / WEIGHTS, _prefixes(peft_type))
    factors, extras, modules = Counter[str](), Counter[str](), set[str]()
    for entry in entries:
        if entry.factor:
            factors[entry.factor] += entry.parameters
            modules.add(entry.module)
        else:
            extras[entry.module] += entry.parameters
    frozen = config.get("frozen") or {}
    return {
        "path": str(folder),
        "method": peft_type.removeprefix(OURS).lower(),
        "made_with": "tapertune" if ours else "peft",
        "base_model": config.get("base_model_name_or_path"),
        "task_type": config.get("task_type"),
        "r": config.get("r"),
        "scaling": _scaling(folder / CONFIG, config, ours),
        "target_modules": config.get("target_modules"),
        "adapted_modules": len(modules),
        "parameters": {"total": factors.total(), **dict(sorted(factors.items()))},
        "modules_to_save": config.get("modules_to_save"),
        "saved_modules": dict(sorted(extras.items())),
        "frozen": frozen,
        "pruned_ranks": config.get("ranks") or {},
        "dtypes": sorted({entry.dtype for entry in entries}),
        "bytes": (folder / WEIGHTS).stat().st_size,
        "coverage": (config.get("coverage") or {}).get("line"),
        "versions": _versions(folder, config),
        "schema_version": config.get("schema_version"),
    }


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise TapertuneError(f"no adapter folder {str(folder)!r}")
    config = read_foreign_json(folder / CONFIG)
    if "peft_type" not in config:
        raise TapertuneError(f"{folder / CONFIG} names no peft_type: not an adapter's config")
    for name, hint in _FIELDS.items():
        several = name == "r" and config["peft_type"] == "MLORA"
        if name in config:
            check_type(folder / CONFIG, name, config[name], list[_Rank] if several else hint)
    version = config.get("schema_version", SCHEMA_VERSION)
    if str(config["peft_type"]).startswith(OURS) and (not isinstance(version, int) or version > SCHEMA_VERSION):
        reads = f"this tapertune reads up to {SCHEMA_VERSION}"
        raise TapertuneError(f"{folder / CONFIG}: adapter schema {version}; {reads}")
    return config


def _read_header(path: Path, prefixes: Iterable[str]) -> list[Entry]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        old = " (adapter_model.bin is a pickle and is not read)" if path.with_suffix(".bin").exists() else ""
        raise TapertuneError(f"no weights {path}{old}")
    check_inside(path)
    entries = []
    try:
        with safe_open(path, framework="numpy") as file:
            keys = file.keys()
            for key in keys:
                part = file.get_slice(key)
                module, factor = _split(key, prefixes)
                entries.append(Entry(module, factor, math.prod(part.get_shape()), part.get_dtype()))
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise TapertuneError(f"{path} is damaged or cut short: {error}") from error
    return entries


def _prefixes(peft_type: str) -> list[str]:
    """How a factor's name begins in the keys; PEFT's own LoRA variants share ``lora_``."""
    own = f"{peft_type.lower()}_"
    return [own] if peft_type.startswith(OURS) else [own, "lora_"]


def _split(key: str, prefixes: Iterable[str]) -> tuple[str, str]:
    """Module and factor of a key: ``base_model.model.fc.lora_A.weight`` -> ``fc``, ``A``."""
    parts = key.removeprefix("base_model.model.").split(".")
    for index, part in enumerate(parts):
        for prefix in prefixes:
            if part.startswith(prefix):
                return ".".join(parts[:index]), part.removeprefix(prefix)
    return ".".join(parts[:-1]) or key, ""


def _scaling(path: Path, config: Mapping[str, Any], ours: bool) -> float | None:
    if ours:
        try:
            return _method_scaling(config)
        except TapertuneError as error:
            raise TapertuneError(f"{path}: {error}") from error
    alpha, r = config.get("lora_alpha"), config.get("r")
    if not alpha or not r or isinstance(r, list):
        return None
    return alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r


def _method_scaling(config: Mapping[str, Any]) -> float:
    import dataclasses

    from ..methods import get_method

    method = get_method(str(config["peft_type"]).removeprefix(OURS).lower())
    names = [field.name for field in dataclasses.fields(method.settings)]
    return method.scaling(method.settings(**{name: config[name] for name in names if name in config}))


def _versions(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Library versions that the run recorded (in the folder above for a checkpoint), else what the config says."""
    for place in (folder, folder.parent):
        if (place / "run.json").is_file():
            versions = read_foreign_json(place / "run.json").get("versions") or {}
            check_type(place / "run.json", "versions", versions, dict[str, str])
            return versions
    return {"peft": config["peft_version"]} if config.get("peft_version") else {}
