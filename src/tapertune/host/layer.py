"""One adapter layer for every chain, over ``nn.Linear`` and transformers' ``Conv1D``, quantised bases included.

Layers of other kinds are made of it in files of their own (``kinds``).
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..adapt.missing_controller import expects_a_controller
from ..errors import TapertuneError
from ..kernels import (
    FUSED_KERNELS,
    KERNELS,
    Call,
    InputDropout,
    Path,
    Reads,
    Spec,
    choose,
    keep_mask,
    kernel_name,
    narrows,
    run,
    transformed,
)
from ..methods import Diagonal, Method, Update, get_method
from .base_weight import OwnWeight, add_to_base
from .config import ChainConfig
from .factor_modules import FactorWeight, SharedWeight, is_shared, of_one_dtype, shared_weights
from .merged_weight import MergedWeight, mergeable
from .module_names import module_kind
from .older_peft import TunerLayer, quantization_extra_repr, resolve_quantization_backend
from .shared_input import SharedInput
from .snapshot import Snapshot, is_plain
from .widths import widths_of

BASE_ROWS = "__base__"
"""Names the base model in ``adapter_names``, as in PEFT."""


class ChainLayer(nn.Module, TunerLayer):
    """An adapted linear layer: ``y = base(x) + scaling * chain(dropout(x))`` for each active adapter.

    Args:
        base_layer: the layer to adapt, or another adapter's layer around it.
        adapter_name: the first adapter's name.
        config: that adapter's config.
        current_key: path of the module in the model, from which its role is read.
        quantization: what PEFT's ``get_quantization_kwargs`` says of the model; torchao's layers need it.
    """

    method: Method  # of the class made by layer_class
    cast_input_dtype_enabled = True  # PEFT's disable_input_dtype_casting sets it on layers
    reads = Reads()  # what one vector of its input is

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: ChainConfig, current_key: str, **quantization: Any
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        base = self.get_base_layer()
        self.in_features, self.out_features = widths_of(base)
        self.fan_in_fan_out = isinstance(base, Conv1D)
        self.module_path = current_key
        self.kind = module_kind(current_key, self.in_features, self.out_features)
        self.chains: dict[str, Update] = {}
        self.scaling: dict[str, float] = {}
        setattr(self, f"{self.method.prefix}dropout", nn.ModuleDict())
        self.adapter_layer_names = ()
        self.other_param_names = ("chains", "scaling", f"{self.method.prefix}dropout")
        self.frozen_peft_weight_names = {}
        self.merged_adapters = []
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.shared_input = SharedInput([self])
        self.snapshot: Snapshot | None = None
        self.merged_weight = MergedWeight()
        self.own_weight = OwnWeight()
        self.quantization_backend = resolve_quantization_backend(base, **quantization)
        self.update_layer(adapter_name, config)

    # ---- adapters ----------------------------------------------------------------------------------------------------

    def update_layer(self, adapter_name: str, config: ChainConfig) -> None:
        """Adds an adapter: its factors, initialised by the method (or all randomly, without ``init_weights``)."""
        settings = config.settings()
        chain = self.method.chain(settings)
        rank = {self.method.rank: config.ranks.get(self.module_path, getattr(settings, self.method.rank))}
        sizes = {**vars(settings), **chain.widths, **rank, "d_in": self.in_features, "d_out": self.out_features}
        shared = shared_weights(chain, sizes, config)
        planned = bool(config.resolved_plans())
        gated = any(isinstance(f, Diagonal) and f.n == self.method.rank for f in chain)
        for factor in chain:
            if factor.name in shared:
                self._container(factor.name)[adapter_name] = SharedWeight(*shared[factor.name])
                continue
            weight = torch.empty(factor.shape(sizes))
            if weight.device.type != "meta" and weight.numel():
                if config.init_weights:
                    self.initialise(factor, weight)
                else:
                    nn.init.normal_(weight, std=weight.shape[-1] ** -0.5 if weight.dim() == 2 else 1.0)
            rank_axis = factor.symbols.index(self.method.rank) if gated and self.method.rank in factor.symbols else None
            holder = FactorWeight(weight, rank_axis)
            if planned:
                expects_a_controller(holder.weight, self.method.name)
            self._container(factor.name)[adapter_name] = holder
        self.chains[adapter_name] = chain
        self.scaling[adapter_name] = self.method.scaling(settings)
        dropout = InputDropout(settings.dropout) if settings.dropout > 0 else nn.Identity()
        getattr(self, f"{self.method.prefix}dropout")[adapter_name] = dropout
        held = [f.name for f in chain if not self.method.trains(settings, f.name, self.kind)]
        self.freeze_factors(adapter_name, [*held, *config.frozen.get(self.module_path, ())])
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @staticmethod
    def facts_of(base: nn.Module) -> dict[str, Any]:
        """What a saved adapter's config has to say of a base layer; nothing of a linear one."""
        return {}

    def initialise(self, factor: Any, weight: Tensor) -> None:
        """Fills a fresh factor as the method says."""
        factor.init(weight)

    def to_layout(self, delta: Tensor) -> Tensor:
        """An update (d_out, d_in) in the layout of the base weight."""
        return delta.T if self.fan_in_fan_out else delta

    def _container(self, factor: str) -> nn.ModuleDict:
        name = self.method.prefix + factor
        if name not in self.adapter_layer_names:
            setattr(self, name, nn.ModuleDict())
            self.adapter_layer_names = (*self.adapter_layer_names, name)
        return getattr(self, name)

    def factor_modules(self, factor: str) -> nn.ModuleDict:
        """What holds a factor of the adapters, by adapter."""
        return cast(nn.ModuleDict, self._modules[self.method.prefix + factor])

    def factor(self, adapter_name: str, factor: str) -> nn.Parameter:
        """One factor of an adapter, as it is now."""
        # asked for often: not through nn.Module's attribute lookup
        return cast(nn.Parameter, cast(nn.Module, self.factor_modules(factor)._modules[adapter_name]).weight)

    def tensors(self, adapter_name: str) -> Mapping[str, Tensor]:
        """An adapter's factors by name, shared ones cut to this module's widths and in the dtype of its own."""
        return of_one_dtype(self.chains[adapter_name], self._uncast(adapter_name))

    def _uncast(self, adapter_name: str) -> dict[str, Tensor]:
        return {factor.name: self._cut(adapter_name, factor) for factor in self.chains[adapter_name]}

    def _cut(self, adapter_name: str, factor: Any) -> Tensor:
        weight: Tensor = self.factor(adapter_name, factor.name)
        if is_shared(factor):
            widths = {"d_in": self.in_features, "d_out": self.out_features}
            for axis, symbol in enumerate(factor.symbols):
                weight = weight.narrow(axis, 0, widths.get(symbol, weight.shape[axis]))
        return weight

    def rank(self, adapter_name: str) -> int:
        """The adapter's rank here, after whatever pruning there was."""
        symbol = self.method.rank
        factor = next(f for f in self.chains[adapter_name] if symbol in f.symbols)
        return self.factor(adapter_name, factor.name).shape[factor.symbols.index(symbol)]

    def freeze_factors(self, adapter_name: str, factors: list[str]) -> None:
        """Keeps factors of an adapter from training, through every later toggle of PEFT's."""
        held = self.frozen_peft_weight_names.get(adapter_name, ())
        new = [name for name in (self.method.prefix + factor for factor in factors) if name not in held]
        self.frozen_peft_weight_names[adapter_name] = (*held, *new)
        for name in new:
            getattr(self, name)[adapter_name].requires_grad_(False)

    # ---- forward and merge -------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        state = None if args or kwargs else self.current()
        if state is None:
            return self._unfused(x, *args, **kwargs)
        call = Call.of(x)
        path = choose(state.spec, call)
        if path is Path.UNFUSED:
            return self._unfused(x)
        if path.joinable:
            return self.shared_input.run(self, state, x, call)
        return run(path, state, x, call, None if state.dropout is None else self._mask(x, state.adapter))

    def current(self) -> Snapshot | None:
        """What forward needs of the layer; None where it goes unfused: with several adapters or none, over a base that
        is not plain, and under a compiler or a transform."""
        if torch.compiler.is_compiling() or transformed():
            return None
        if self.snapshot is None or not self.snapshot.is_current(self):
            self.snapshot = self._take_snapshot()
        return self.snapshot

    def _take_snapshot(self) -> Snapshot | None:
        names = self.present_adapters()
        if len(names) != 1 or not self.is_sole_active(names[0]) or not self._plain_base:
            return None
        return Snapshot.take(
            self,
            names[0],
            base=cast(nn.Linear, self.base_layer),
            factors={name: (self.factor_modules(name), tensor) for name, tensor in self._uncast(names[0]).items()},
            dropouts=self.dropouts,
            scaling=self.scaling,
            merged=self.merged_weight,
        )

    @property
    def _plain_base(self) -> bool:
        return self.quantization_backend is None and is_plain(self.base_layer)

    def spec(self, adapter_name: str) -> Spec:
        """The layer in numbers, as it is with this adapter now."""
        state = self.current()
        if state is not None and state.adapter == adapter_name:
            return state.spec
        shape, dropout = (self.out_features, self.in_features), self.dropout(adapter_name) is not None
        tensors = self.tensors(adapter_name)
        return Spec.of(self.chains[adapter_name], tensors, shape, dropout=dropout, plain=False, reads=self.reads)

    def can_merge(self, adapter_name: str) -> bool:
        """Whether base and adapter are such that one weight can stand for both: a plain ``nn.Linear`` in float32 or
        float64 with factors of its dtype, frozen, without dropout."""
        dropout, tensors = self.dropouts[adapter_name], self._uncast(adapter_name)
        return self._plain_base and mergeable(cast(nn.Linear, self.base_layer).weight, tensors.values(), dropout)

    def merge_frozen(self, adapter_name: str) -> bool:
        """Lets the layer be computed as one weight whenever this adapter alone is active and does not train; whether it
        can be."""
        able = self.can_merge(adapter_name)
        if able:
            self.merged_weight.ask(frozen=adapter_name)
        return able

    def _unfused(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Base layer and adapters one after another."""
        rows = kwargs.pop("adapter_names", None)
        if rows is not None and not self.disable_adapters:
            return self._by_row(x, rows, *args, **kwargs)
        if self.disable_adapters or self.merged:
            if self.disable_adapters and self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        names = self.present_adapters()
        result = self._base_output(x, *args, **kwargs)
        dtype = result.dtype
        for name in names:
            result = result + self._update(x, name, alone=len(names) > 1).to(dtype)
        return result

    def _base_output(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = self.base_layer(x, *args, **kwargs)
        if self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        return result

    def _update(self, x: Tensor, name: str, alone: bool) -> Tensor:
        """What an adapter adds for x. ``alone``: with a dropout mask that no other layer shares."""
        kernel = kernel_name()
        chain, tensors = self.chains[name], self.tensors(name)
        first = tensors[chain.names[0]]
        as_it_is = kernel in FUSED_KERNELS and narrows(x.dtype, first.dtype)
        adapter_input = x if as_it_is else self._cast_input_dtype(x, first.dtype)
        adapter_input = self._dropped(x, adapter_input, name, alone=alone)
        return KERNELS[kernel](chain, adapter_input, tensors, self.scaling[name])

    def _by_row(self, x: Tensor, names: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        """Each row of x with the adapter that is named for it."""
        if len(names) != len(x):
            raise TapertuneError(f"adapter_names names {len(names)} adapters, for an input of {len(x)} rows")
        result = self._base_output(x, *args, **kwargs)
        for name in dict.fromkeys(names):
            if name in self.chains:
                rows = torch.tensor([i for i, other in enumerate(names) if other == name], device=x.device)
                update = self._update(x.index_select(0, rows), name, alone=True).to(result.dtype)
                result = result.index_add(0, rows, update)
        return result

    @property
    def dropouts(self) -> nn.ModuleDict:
        """What drops elements of the adapters' inputs, by adapter."""
        return cast(nn.ModuleDict, self._modules[f"{self.method.prefix}dropout"])

    def dropout(self, adapter_name: str) -> InputDropout | None:
        """An adapter's dropout, while it does something."""
        dropout = self.dropouts[adapter_name]
        return dropout if isinstance(dropout, InputDropout) and dropout.training else None

    def _dropped(self, x: Tensor, adapter_input: Tensor, adapter_name: str, alone: bool) -> Tensor:
        dropout = self.dropout(adapter_name)
        if dropout is None:
            return adapter_input
        if alone or torch.compiler.is_compiling() or transformed():
            return dropout(adapter_input)
        return dropout.under(adapter_input, self._mask(x, adapter_name))

    def _mask(self, x: Tensor, adapter_name: str) -> Tensor:
        """The mask for x of a dropout that does something, the same for all layers that read x."""
        p = cast(InputDropout, self.dropouts[adapter_name]).p
        return self.shared_input.take(
            self,
            x,
            adapter_name,
            able=lambda layer: layer.is_sole_active(adapter_name) and layer.dropout(adapter_name) is not None,
            make=lambda layers: [keep_mask(x, p)] * len(layers),
        )

    def present_adapters(self) -> list[str]:
        """The active adapters that this layer has."""
        return [name for name in self.active_adapters if name in self.chains]

    def is_sole_active(self, adapter_name: str) -> bool:
        """Whether this adapter, and no other, acts on what the layer is given."""
        return self.present_adapters() == [adapter_name] and not (self.disable_adapters or self.merged)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """The adapter's update in the layout of the base weight, in the adapter's dtype.

        A half-precision adapter on the CPU is multiplied out in float32.
        """
        tensors = self.tensors(adapter)
        dtype = next(iter(tensors.values())).dtype
        if dtype in (torch.float16, torch.bfloat16):
            tensors = {name: tensor.float() for name, tensor in tensors.items()}
        delta = self.chains[adapter].delta_weight(tensors) * self.scaling[adapter]
        return self.to_layout(delta).to(dtype)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Adds adapters to the base weight.

        Args:
            safe_merge: check the merged weight first and leave the base untouched when it is not finite.
            adapter_names: the adapters, or None for the active ones.

        Raises:
            TapertuneError: the base is quantised in a format that cannot be written back.
            ValueError: with ``safe_merge``, a merged weight that is not finite.
        """
        for name in check_adapters_to_merge(self, adapter_names):
            if name in self.chains:
                add_to_base(self, name, 1, check=safe_merge)
                self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Takes the merged adapters out of the base weight again, up to the rounding of its dtype."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        while self.merged_adapters:
            add_to_base(self, self.merged_adapters.pop(), -1)
        self.own_weight.give_back(self)

    def get_base_weight(self) -> Tensor:
        """The base layer's weight, dequantised where it is quantised."""
        base = self.get_base_layer()
        state: Any = getattr(getattr(base, "weight", None), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            # evaluating on a CPU, bitsandbytes lays 4-bit weights out for its kernels, which PEFT reads as noise;
            # asking for the state puts them back, but plain scales stay in the kernels' order
            base.state_dict()
            if state.absmax.dim() == 2:
                state.absmax = state.absmax.T.reshape(-1).float()
        return super().get_base_weight()

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True

    def extra_repr(self) -> str:
        return quantization_extra_repr(self)

    def __repr__(self) -> str:
        return f"{self.method.name}.{super().__repr__()}"


@functools.cache
def layer_class(name: str) -> type[ChainLayer]:
    """The layer class of a method; PEFT tells methods apart by class."""
    row = get_method(name)
    cls = type(f"{row.title}Layer", (ChainLayer,), {"method": row, "__module__": __name__})
    setattr(sys.modules[__name__], cls.__name__, cls)  # where pickle looks for it
    return cls
