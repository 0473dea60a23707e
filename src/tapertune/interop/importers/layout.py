"""What the importers share: keys taken apart, whole weights sorted out, tensors brought to the chain's shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...errors import TapertuneError
from ...host.module_names import ROOT
from ..saved import Modules
from .source import Source


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an importer made of a source: a method, fields of its config, tensors in its chain's names and shapes."""

    method: str
    fields: dict[str, Any]
    modules: Modules
    extras: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Format:
    """A layout that can be imported.

    Attributes:
        name: what ``--format`` takes.
        title: what wrote it.
        matches: whether a source has this layout, from its keys and config.
        read: takes it apart.
    """

    name: str
    title: str
    matches: Callable[[Source], bool]
    read: Callable[[Source], Imported]


def split_keys(source: Source, pattern: str, format: str) -> tuple[Modules, dict[str, Tensor]]:
    """Tensors by module and factor, and the rest by key.

    Args:
        source: where from.
        pattern: a regular expression for whole keys, with the groups ``module`` and ``factor``.
        format: its name, for errors.

    Raises:
        TapertuneError: no key has this form.
    """
    modules: Modules = {}
    rest: dict[str, Tensor] = {}
    for key, tensor in source.state.items():
        match = re.fullmatch(pattern, key)
        if match:
            modules.setdefault(match["module"], {})[match["factor"]] = tensor
        else:
            rest[key] = tensor
    if not modules:
        raise TapertuneError(f"{source.path} has no tensor of {format}")
    return modules, rest


def need_factors(source: Source, modules: Modules, names: tuple[str, ...]) -> None:
    """Raises TapertuneError naming the first module that lacks one of these factors, or has a number for one."""
    for module, tensors in modules.items():
        for name in names:
            if name not in tensors:
                raise TapertuneError(f"{source.path}: {module}.{name} is missing")
            if not tensors[name].dim():
                raise TapertuneError(f"{source.path}: {module}.{name} is a single number")


def peft_key(names: str) -> str:
    """The pattern of PEFT's keys for these factors: ``base_model.model.<module>.<factor>[.default][.weight]``."""
    return rf"(?:base_model\.model\.)(?P<module>.+?)\.(?P<factor>{names})(?:\.default)?(?:\.weight)?"


def saved_modules(
    source: Source, rest: Mapping[str, Tensor], modules: Mapping[str, Any], foreign: str
) -> dict[str, Tensor]:
    """The weights that a PEFT file holds beside the adapter, by path. What an adapted layer itself has (PEFT saves an
    adapted head's) keeps ``base_layer`` in its path, as PEFT loads it.

    Raises:
        TapertuneError: a key that belongs to the adapter (it matches ``foreign``), to a trained row of an embedding, or
            to a layer that is not adapted; two copies of one weight.
    """
    extras: dict[str, Tensor] = {}
    for key, tensor in rest.items():
        layer, inside, _ = key.removeprefix(ROOT).partition(".base_layer.")
        strange = inside and layer not in modules
        if strange or re.search(rf"{foreign}|\.(token_adapter|trainable_tokens_)", key):
            raise TapertuneError(f"{source.path}: {key} is nothing that can be imported")
        if ".original_module." in key:
            continue
        path = key.removeprefix(ROOT).replace(".modules_to_save.default", "").replace(".modules_to_save", "")
        if path in extras or _other_copy(key, rest):
            raise TapertuneError(f"{source.path}: {key} is one of several copies of a module saved whole; keep one")
        extras[path] = tensor
    return extras


def _other_copy(key: str, rest: Mapping[str, Tensor]) -> bool:
    """Whether a saved module's key names another adapter than ``default``, which the file holds, too."""
    owner, inside, tail = key.partition(".modules_to_save.")
    beside = f"{owner}{inside}default."
    return bool(inside) and not tail.startswith("default.") and any(other.startswith(beside) for other in rest)


def peft_fields(source: Source, modules: Mapping[str, Any], extras: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields of PEFT's config that tapertune's has under the same name."""
    names = ("base_model_name_or_path", "task_type", "revision")
    fields: dict[str, Any] = {n: source.config[n] for n in names if source.config.get(n) is not None}
    mapping = source.config.get("auto_mapping") or {}
    if str(mapping.get("parent_library")).startswith("transformers."):  # PEFT imports whatever is named there
        fields["auto_mapping"] = mapping
    return fields | {"modules_to_save": source.config.get("modules_to_save") or owners(extras, modules) or None}


def owners(extras: Mapping[str, Tensor], modules: Mapping[str, Any]) -> list[str]:
    """The modules that hold these weights: the shortest paths that hold no adapted module."""
    found = set()
    for path in extras:
        if ".base_layer." in path:
            continue  # the adapted layer's own
        parts = path.split(".")
        heads = [".".join(parts[:i]) for i in range(1, max(2, len(parts)))]
        outside = (h for h in heads if not any(m == h or m.startswith(h + ".") for m in modules))
        found.add(next(outside, heads[-1]))
    return sorted(found)


def beside_backbone(source: Source, modules: Modules, rest: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a full model's weights, those of modules outside the adapted part: the heads, which are trained whole.

    A head that is tied to a weight of the adapted part is not one of its own, and single tensors are buffers.
    """
    adapted = {module.split(".")[0] for module in modules}
    backbone = {key: tensor for key, tensor in rest.items() if key.split(".")[0] in adapted}
    outside = {key: tensor for key, tensor in rest.items() if key not in backbone and "." in key}
    extras = {
        key: tensor
        for key, tensor in outside.items()
        if not any(t.shape == tensor.shape and t.equal(tensor) for t in backbone.values() if t.dim() == 2)
    }
    if not extras:
        source.warnings.append("the file holds no head (classifier, pooler): outputs need the one it was trained with")
    if backbone:
        source.warnings.append(
            "the base weights in the file are left out: load the adapter on the model it is made for"
        )
    return extras


def ranks_of(modules: Modules, factor: str, full: int) -> dict[str, int]:
    """The modules whose rank (first axis of a factor) is not the full one."""
    ranks = {module: tensors[factor].shape[0] for module, tensors in modules.items()}
    return {module: rank for module, rank in ranks.items() if rank != full}


def one_rank(source: Source, modules: Modules, factor: str) -> int:
    """The rank that all modules have.

    Raises:
        TapertuneError: they differ, so that the scaling cannot be known.
    """
    sizes = {tensors[factor].shape[0]: module for module, tensors in modules.items()}
    if len(sizes) > 1:
        (a, one), (b, other) = list(sizes.items())[:2]
        raise TapertuneError(f"{source.path}: {one} has rank {a}, {other} {b}; the scaling needs one initial rank")
    return next(iter(sizes))


def check_rank_field(source: Source, recorded: Any, found: int) -> None:
    """Raises TapertuneError where the config's rank is not that of the tensors."""
    if recorded is not None and recorded != found:
        raise TapertuneError(f"{source.path}: the config says r = {recorded}, the tensors have rank {found}")
