"""An adapter as its files hold it: config, factors by module, and the modules saved beside them. No base model."""

from __future__ import annotations

import dataclasses
import functools
import typing
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapt.plan import present_names
from ..errors import TapertuneError
from ..host import ChainConfig, config_class, make_config
from ..host.factor_modules import shared_weights
from ..host.module_names import ROOT
from ..methods import METHODS, Diagonal, Factor, Matrix, Update
from .fields import check_type
from .folder import CONFIG, OURS, WEIGHTS, read_foreign_json
from .layer_kinds import LINEAR, LayerKind, read_kinds
from .tensors import read_safetensors

Modules = dict[str, dict[str, Tensor]]
InputWidths = Callable[[list[str]], Mapping[str, int]]


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter without a model.

    Attributes:
        config: the method's config.
        modules: factors by module path and factor name, shared ones cut to the module's widths.
        extras: whole weights saved with it, such as ``classifier.weight``.
    """

    config: ChainConfig
    modules: Modules
    extras: dict[str, Tensor] = field(default_factory=dict)

    @property
    def chain(self) -> Update:
        return self.config.row.chain(self.config.settings())

    @property
    def scaling(self) -> float:
        return self.config.row.scaling(self.config.settings())

    def kind(self, module: str) -> LayerKind:
        """What the module is."""
        return self.kinds.get(module, LINEAR)

    @functools.cached_property
    def kinds(self) -> dict[str, LayerKind]:
        """What modules are that are no linear layers."""
        return read_kinds("the adapter's config", self.config.layer_kinds)

    def widths(self, module: str) -> tuple[int, int]:
        """(d_out, d_in) of the module."""
        sizes = symbol_sizes(self.chain, module, self.modules[module])
        return sizes["d_out"], sizes["d_in"]

    def low_rank(self, module: str) -> tuple[Tensor, Tensor]:
        """``(down, up)`` in float64 with the scaling in ``up``, of the smallest rank that the factors show.

        Components behind a gate that is exactly zero are left out, and so are those without any effect.
        """
        tensors = _open_gates(self.chain, {name: t.double() for name, t in self.modules[module].items()})
        down, up = self.chain.lora_factors(tensors)
        up = up * self.scaling
        used = (down != 0).any(1) & (up != 0).any(0)
        down, up = down[used], up[:, used]
        d_out, d_in = up.shape[0], down.shape[1]
        if min(d_in, d_out) < down.shape[0]:  # as is, the rank would be larger than a full matrix needs
            delta, one = up @ down, torch.eye(min(d_in, d_out), dtype=up.dtype)
            return (one, delta) if d_in <= d_out else (delta, one)
        return down, up

    def delta_rows(self, module: str, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Rows of the module's update (d_out, d_in), without building the others."""
        tensors = {name: t.to(dtype) for name, t in self.modules[module].items()}
        for factor in self.chain:
            if "d_out" in factor.symbols:
                axis = factor.symbols.index("d_out")
                tensors[factor.name] = tensors[factor.name].narrow(axis, start, stop - start)
        return self.chain.delta_weight(tensors) * self.scaling


def read_adapter(folder: Path, input_widths: InputWidths | None = None) -> SavedAdapter:
    """Reads one of tapertune's adapters.

    Args:
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.
        input_widths: asked for the d_in of modules whose projections are shared, which the file does not tell.

    Raises:
        TapertuneError: a file is missing or damaged, it is not tapertune's, or its tensors do not fit together.
    """
    config = read_config(folder)
    state = read_safetensors(folder / WEIGHTS)
    marker = f".{config.row.prefix}"
    modules: Modules = {}
    extras: dict[str, Tensor] = {}
    for key, tensor in state.items():
        module, found, factor = key.removeprefix(ROOT).rpartition(marker)
        if found:
            modules.setdefault(module, {})[factor.removesuffix(".weight")] = tensor
        else:
            extras[key.removeprefix(ROOT)] = tensor
    chain = config.row.chain(config.settings())
    shared = {f.name: f for f in chain if isinstance(f, Matrix) and f.shared}
    if shared and modules:
        _cut_shared(config, chain, modules, input_widths)
    adapter = SavedAdapter(config, modules, extras)
    check(adapter, str(folder))
    return adapter


def read_config(folder: Path) -> ChainConfig:
    """The config of one of tapertune's adapters.

    Raises:
        TapertuneError: no such folder or file, another library's adapter, or a field with a wrong value.
    """
    if not folder.is_dir():
        raise TapertuneError(f"no adapter folder {str(folder)!r}")
    path = folder / CONFIG
    values = read_foreign_json(path)
    peft_type = str(values.pop("peft_type", None))
    name = peft_type.removeprefix(OURS).lower()
    if not peft_type.startswith(OURS) or name not in METHODS:
        raise TapertuneError(
            f"{folder} is an adapter of type {peft_type}, not tapertune's; `tapertune import` reads it"
        )
    kind = config_class(name)
    hints = typing.get_type_hints(kind)
    known = {f.name: values[f.name] for f in dataclasses.fields(kind) if f.init and f.name in values}
    for field_name, value in known.items():
        check_type(path, field_name, value, hints[field_name])
    if "plan" in known:  # nobody is to mend what an earlier version wrote
        known["plan"] = present_names(known["plan"])
    for field_name in sorted(set(values) - set(known)):
        warnings.warn(f"{path}: unknown field {field_name!r} is left out; a newer tapertune may know it", stacklevel=2)
    try:
        return make_config(name, **known)
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        if isinstance(error, TapertuneError):
            raise TapertuneError(f"{path}: {error}") from error
        raise TapertuneError(f"{path} has a field of a wrong kind: {error}") from error


def write_adapter(folder: Path, adapter: SavedAdapter) -> None:
    """Writes config and weights, in the form that ``PeftModel.from_pretrained`` loads, into an existing folder."""
    from safetensors.torch import save_file

    prefix = adapter.config.row.prefix
    state = {ROOT + name: tensor for name, tensor in adapter.extras.items()}
    for module, factors in adapter.modules.items():
        state |= {f"{ROOT}{module}.{prefix}{name}.weight": tensor for name, tensor in factors.items()}
    # cloned: tensors may be views of one another, which the format does not hold
    save_file({k: t.detach().clone().contiguous() for k, t in state.items()}, folder / WEIGHTS, {"format": "pt"})
    adapter.config.save_pretrained(str(folder))


def symbol_sizes(chain: Update, module: str, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The widths by symbol that a module's tensors have.

    Raises:
        TapertuneError: tensors are missing, or two of them disagree.
    """
    sizes: dict[str, int] = {}
    origin: dict[str, str] = {}
    for factor in chain:
        if factor.name not in tensors:
            raise TapertuneError(f"{module}: factor {factor.name} is missing")
        shape = tuple(tensors[factor.name].shape)
        if len(shape) != len(factor.symbols):
            expected = " x ".join(factor.symbols)
            raise TapertuneError(f"{module}: {factor.name} has shape {shape}; it should be {expected}")
        for symbol, size in zip(factor.symbols, shape, strict=True):
            if sizes.setdefault(symbol, size) != size:
                what = f"{factor.name} has shape {shape}, where {origin[symbol]} makes {symbol} {sizes[symbol]}"
                raise TapertuneError(f"{module}: {what}")
            origin.setdefault(symbol, factor.name)
    return sizes


def check(adapter: SavedAdapter, where: str) -> None:
    """Raises TapertuneError unless the adapter has modules whose tensors are the method's and fit together."""
    if not adapter.modules:
        raise TapertuneError(f"{where} holds no tensor of {adapter.config.method}")
    chain = adapter.chain
    for module, tensors in adapter.modules.items():
        unknown = sorted(set(tensors) - set(chain.names))
        if unknown:
            raise TapertuneError(f"{module}: {adapter.config.method} has no factor {unknown[0]!r}")
        symbol_sizes(chain, module, tensors)
        _check_numbers(tensors, f"{module}: ")
    _check_numbers(adapter.extras, "")


def _check_numbers(tensors: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if not tensor.dtype.is_floating_point:
            raise TapertuneError(f"{where}{name} is {tensor.dtype}; weights are floating-point numbers")
        if not torch.isfinite(tensor).all():
            raise TapertuneError(f"{where}{name} holds values that are not finite")


def _open_gates(chain: Update, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The chain's tensors without the components whose diagonal element between two matrices is zero."""
    factors = chain.factors
    matrices = [i for i, f in enumerate(factors) if isinstance(f, Matrix)]
    for i, factor in enumerate(factors):
        if not isinstance(factor, Diagonal) or not matrices[0] < i < matrices[-1]:
            continue
        kept = torch.nonzero(tensors[factor.name]).flatten()
        left, right = max(m for m in matrices if m < i), min(m for m in matrices if m > i)
        for j in range(left, right + 1):
            name = factors[j].name
            tensors[name] = tensors[name].index_select(1 if j == right else 0, kept)
    return tensors


def _cut_shared(config: ChainConfig, chain: Update, modules: Modules, input_widths: InputWidths | None) -> None:
    """Gives each module its part of the projections that all share, from the file or drawn again from their seed."""
    shared = [f for f in chain if isinstance(f, Matrix) and f.shared]
    whole: dict[str, Tensor] = {}
    for tensors in modules.values():
        for factor in shared:
            whole.update({factor.name: tensors.pop(factor.name)} if factor.name in tensors else {})
    kinds = read_kinds("the adapter's config", config.layer_kinds)
    d_in = {module: kinds[module].d_in for module in modules if module in kinds}
    asked = [module for module in modules if d_in.get(module) is None]
    if input_widths is None and asked:
        raise TapertuneError(
            f"the modules of this {config.method} adapter share their projections, and its files do not tell the"
            " modules' input widths: name the base model (--base)"
        )
    d_in |= dict(input_widths(asked)) if input_widths is not None and asked else {}
    sizes = {m: {**symbol_sizes_of(chain, t), "d_in": int(d_in[m] or 0)} for m, t in modules.items()}
    if len(whole) < len(shared):
        largest: dict[str, Any] = {k: max(s[k] for s in sizes.values()) for k in ("d_in", "d_out")}
        drawn = shared_weights(chain, {**vars(config.settings()), **largest}, config)
        whole = {name: projection.tensor for name, (projection, _) in drawn.items()}
    for module, tensors in modules.items():
        for factor in shared:
            tensors[factor.name] = _cut(factor, whole[factor.name], sizes[module], module)


def symbol_sizes_of(chain: Update, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Widths by symbol from whichever factors are there."""
    present = [f for f in chain if f.name in tensors]
    return {s: n for f in present for s, n in zip(f.symbols, tensors[f.name].shape, strict=True)}


def _cut(factor: Factor, weight: Tensor, sizes: Mapping[str, int], module: str) -> Tensor:
    for axis, symbol in enumerate(factor.symbols):
        wanted = sizes.get(symbol, weight.shape[axis])
        if wanted > weight.shape[axis]:
            raise TapertuneError(
                f"{module}: needs {symbol} of {wanted}, but the shared projection {factor.name} has shape"
                f" {tuple(weight.shape)}"
            )
        weight = weight.narrow(axis, 0, wanted)
    return weight
