"""What of a model is under an adapter, and what is left out: from its layers alone, without a forward pass.

Operations are those of a frozen layer for one vector of its input (a token, or a position of a convolution's output);
of stacked experts, for as many of them as a token is sent to. What attention computes of queries and keys is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from peft.tuners.tuners_utils import BaseTunerLayer, _ExcludedModule, check_target_module_exists
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from ..errors import TapertuneError
from .held_matrix import HeldMatrix, held_parameter
from .kinds import adaptable, kind_of
from .layer import ChainLayer
from .module_names import ROOT, layer_path
from .parameter_layer import ParameterLayer
from .search import AdaptedPart, adapted_parts
from .widths import flops_per_vector

_MOST_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Modules of one class with matrices that no adapter is beside.

    Attributes:
        kind: the class's name.
        count: how many modules.
        parameters: theirs.
        flops: theirs, for a vector.
        reason: why they are left out.
    """

    kind: str
    count: int
    parameters: int
    flops: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What an adapter covers of its base model.

    Attributes:
        parameters, flops: of the base model; ``flops`` for a vector.
        adapted_parameters, adapted_flops: of the layers under the adapter.
        modules: how many layers those are.
        left_out: by kind and reason, the largest first.
        missing: names of ``target_modules`` that match in some of a model's layers and not in others, with both counts.
    """

    parameters: int
    adapted_parameters: int
    flops: int
    adapted_flops: int
    modules: int
    left_out: tuple[LeftOut, ...] = ()
    missing: tuple[tuple[str, int, int], ...] = ()

    def check(self) -> None:
        """
        Raises:
            TapertuneError: nothing that is computed is under the adapter.
        """
        if not self.adapted_flops:
            kinds = ", ".join(dict.fromkeys(each.kind for each in self.left_out)) or "no layer with a matrix"
            raise TapertuneError(
                "target_modules: the adapter covers no FLOP of the model, and would train nothing; what it could be put"
                f" beside: {kinds}"
            )

    def facts(self) -> dict[str, Any]:
        """Two shares and the line, for a config."""
        return {"parameters": self._of_parameters, "flops": self._of_flops, "modules": self.modules, "line": str(self)}

    @property
    def _of_parameters(self) -> float:
        return self.adapted_parameters / max(self.parameters, 1)

    @property
    def _of_flops(self) -> float:
        return self.adapted_flops / max(self.flops, 1)

    @property
    def unexpected(self) -> bool:
        """Whether something is left out that nobody has chosen to leave out."""
        return bool(self.missing) or any("supported" in each.reason for each in self.left_out)

    def __str__(self) -> str:
        line = (
            f"coverage: {self.modules} layers with {_percent(self._of_parameters)} of {self.parameters:,} parameters"
            f" and {_percent(self._of_flops)} of the FLOPs are under the adapter"
        )
        if self.left_out:
            named = self.left_out[:_MOST_NAMED]
            parts = [
                f"{each.count} {each.kind} ({_percent(each.parameters / max(self.parameters, 1))} of the parameters,"
                f" {_percent(each.flops / max(self.flops, 1))} of the FLOPs: {each.reason})"
                for each in named
            ]
            more = len(self.left_out) - len(named)
            line += f"; left out: {', '.join(parts)}" + (f" and {more} kinds more" if more else "")
        if self.missing:
            names = ", ".join(f"{name!r} in {total - count} of {total} layers" for name, count, total in self.missing)
            line += f"; matched nothing: {names}"
        return line


def coverage(model: nn.Module, adapter_name: str = "default") -> Coverage:
    """What an adapter covers of the model that it is in.

    Raises:
        TapertuneError: the model has no such adapter of ours.
    """
    parts = [coverage_of(part, adapter_name) for part in adapted_parts(model, adapter_name)]
    if len(parts) == 1:
        return parts[0]
    sums = {
        name: sum(getattr(part, name) for part in parts)
        for name in ("parameters", "adapted_parameters", "flops", "adapted_flops", "modules")
    }
    left_out, missing = (
        tuple(each for part in parts for each in getattr(part, name)) for name in ("left_out", "missing")
    )
    return Coverage(**sums, left_out=left_out, missing=missing)


def coverage_of(part: AdaptedPart, adapter_name: str) -> Coverage:
    """What an adapter covers of one part of a model."""
    experts = _experts(part.module)
    unheard = {id(m.out_proj) for m in part.module.modules() if isinstance(m, nn.MultiheadAttention)}
    totals = {"parameters": 0, "adapted_parameters": 0, "flops": 0, "adapted_flops": 0, "modules": 0}
    rest: dict[tuple[str, str], list[int]] = {}
    counted: set[int] = set()
    for path, module, layer in _base_modules(part.module):
        own = {id(p): p.numel() for p in module.parameters(recurse=False) if id(p) not in counted}
        counted.update(own)
        numbers, flops = _numbers(module, own), _flops(module, experts)
        adapted = layer is not None and adapter_name in layer.chains
        totals["parameters"] += numbers
        totals["flops"] += flops
        held = _held(part.module, module, adapter_name)
        if held:
            totals["adapted_parameters"] += sum(number for key, number in own.items() if key in held)
            totals["adapted_flops"] += _flops(module, experts, held)
            totals["modules"] += 1
        elif adapted:
            totals["adapted_parameters"] += numbers
            totals["adapted_flops"] += flops
            totals["modules"] += 1
        elif flops:
            reason = _reason(part, path, module, id(module) in unheard)
            entry = rest.setdefault((type(module).__name__, reason), [0, 0, 0])
            for i, number in enumerate((1, numbers, flops)):
                entry[i] += number
    left = [LeftOut(kind=k, reason=r, count=c, parameters=p, flops=f) for (k, r), (c, p, f) in rest.items()]
    left.sort(key=lambda each: (-each.flops, -each.parameters, each.kind))
    return Coverage(**totals, left_out=tuple(left), missing=tuple(_missing(part, adapter_name)))


def _held(model: nn.Module, module: nn.Module, adapter_name: str) -> set[int]:
    """The ids of a module's own parameters whose matrices have chains, as those of stacked experts do."""
    around = [layer for layer in model.modules() if isinstance(layer, ParameterLayer) and layer.base_layer is module]
    return {
        id(held_parameter(module, name))
        for layer in around
        for name in layer.parameter_names
        if any(adapter_name in matrix.chains for matrix in layer.matrices(name))
    }


def _base_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, ChainLayer | None]]:
    """The base model's modules by their paths in it, each with the layer of ours that is around it."""
    around: dict[int, ChainLayer] = {}
    own: set[int] = set()
    for module in model.modules():
        if isinstance(module, ChainLayer):
            base = module.get_base_layer()
            around[id(base)] = module
            own.update(id(m) for m in module.modules() if m is not module and not _belongs(m, base))
        elif isinstance(module, AuxiliaryTrainingWrapper):
            kept = module.original_module
            own.update(id(m) for m in module.modules() if m is not module and not _belongs(m, kept))
    for name, module in model.named_modules():
        wrapper = isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper | ParameterLayer)
        skipped = id(module) in own or wrapper or isinstance(module, HeldMatrix)
        if not skipped:
            path = name.removeprefix(ROOT).replace(".base_layer", "").replace(".original_module", "")
            yield path, cast(nn.Module, module), around.get(id(module))


def _belongs(module: nn.Module, base: nn.Module) -> bool:
    return any(module is inner for inner in base.modules())


def _numbers(module: nn.Module, own: dict[int, int]) -> int:
    """A module's own parameters that are not counted yet, however they are packed."""
    packed = kind_of(module) is ChainLayer and bool(own)
    return max(sum(own.values()), flops_per_vector(module) // 2) if packed else sum(own.values())


def _flops(module: nn.Module, experts: float, among: set[int] | None = None) -> int:
    """Operations of a module's own matrices for a vector, or of those with such ids; 0 of one without any."""
    if adaptable(module):
        if isinstance(module, nn.MultiheadAttention):
            return flops_per_vector(module) - 2 * module.embed_dim**2  # the output projection is a module of its own
        return flops_per_vector(module)
    matrices = [p for p in module.parameters(recurse=False) if p.dim() >= 2 and min(p.shape) > 1]
    if isinstance(module, nn.LayerNorm | nn.EmbeddingBag):
        return 0
    counted = [p for p in matrices if among is None or id(p) in among]
    return sum(int(2 * p.numel() * (experts if p.dim() == 3 else 1)) for p in counted)


def _experts(model: nn.Module) -> float:
    """The share of stacked experts that a token is sent to."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for many in ("num_local_experts", "num_experts", "n_routed_experts"):
        total, taken = getattr(text, many, None), getattr(text, "num_experts_per_tok", None)
        if isinstance(total, int) and isinstance(taken, int) and total:
            return min(1.0, taken / total)
    return 1.0


def _reason(part: AdaptedPart, path: str, module: nn.Module, unheard: bool) -> str:
    match = check_target_module_exists(part.config, path)
    if isinstance(match, _ExcludedModule):
        kept = part.config.modules_to_save or ()
        whole = any(path == name or path.endswith("." + name) for name in kept)
        return "trained whole" if whole else "excluded"
    if adaptable(module):
        return "of nn.MultiheadAttention, which reads its weight" if unheard else "no target"
    return "not supported"


def _missing(part: AdaptedPart, adapter_name: str) -> Iterator[tuple[str, int, int]]:
    """Names of targets that match in some layers of a stack of layers and not in all."""
    targets = part.config.target_modules
    if targets is None or isinstance(targets, str) or part.config.layers_to_transform is not None:
        return
    paths = [path for path, _, _ in _base_modules(part.module)]
    adapted = {
        layer.module_path
        for layer in part.module.modules()
        if isinstance(layer, ChainLayer) and adapter_name in layer.chains
    }
    stacks: dict[str, set[str]] = {}
    for path in paths:
        if (layer := layer_path(path)) is not None and layer != path:
            stacks.setdefault(layer.rpartition(".")[0], set()).add(layer)
    for name in sorted(targets):
        hits = {layer_path(path) for path in adapted if path == name or path.endswith("." + name)} - {None}
        for layers in stacks.values():
            count = len(hits & layers)
            if 0 < count < len(layers):
                yield name, count, len(layers)


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
