"""Convolutions: the chain's first matrix has the base's window, the last one is 1 x 1."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapt.sharding import is_sharded
from ..errors import TapertuneError
from ..kernels import FUSED_KERNELS, Call, Reads, keep_mask, kernel_name, narrows, transformed
from ..kernels.convolution import Window, convolution_update, convolve
from ..kernels.dropout import keep_scale
from .base_fields import BaseFields
from .config import ChainConfig
from .layer import ChainLayer
from .widths import CONVOLUTIONS


class ConvolutionLayer(BaseFields, ChainLayer):
    """An adapted ``nn.Conv1d``, ``nn.Conv2d`` or ``nn.Conv3d``."""

    @staticmethod
    def adapts(base: nn.Module) -> bool:
        """Whether a module is one that this adapts."""
        return isinstance(base, CONVOLUTIONS) and "weight" in base._parameters  # which is not made of others

    @staticmethod
    def facts_of(base: nn.Module) -> dict[str, Any]:
        layer = cast(nn.Conv2d, base)
        return {
            "type": next(kind.__name__ for kind in CONVOLUTIONS if isinstance(base, kind)),
            "kernel_size": list(layer.kernel_size),
            "groups": layer.groups,
            "dilation": list(layer.dilation),
            "padding_mode": layer.padding_mode,
        }

    @property
    def reads(self) -> Reads:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Reads(groups=cast(nn.Conv2d, self.get_base_layer()).groups)

    def update_layer(self, adapter_name: str, config: ChainConfig) -> None:
        check_groups(self.module_path, self.get_base_layer(), config)
        super().update_layer(adapter_name, config)

    def to_layout(self, delta: Tensor) -> Tensor:
        return delta.reshape(cast(Tensor, self.get_base_layer().weight).shape)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = None if args or kwargs else self._fusable(x)
        if name is None:
            return self._unfused(x, *args, **kwargs)
        call = Call.of(x)
        with torch.autocast(call.device, enabled=False):
            return self._fused(x, name, torch.get_autocast_dtype(call.device) if call.autocast else x.dtype)

    def _fusable(self, x: Tensor) -> str | None:
        """The adapter that acts alone, where base and chain can be one node."""
        names = self.present_adapters()
        if len(names) != 1 or not self.is_sole_active(names[0]) or not self._is_plain_convolution:
            return None
        if torch.compiler.is_compiling() or transformed() or kernel_name() not in FUSED_KERNELS:
            return None
        dropped = self.dropout(names[0]) is not None
        if not (self.chains[names[0]].linear or not dropped):
            return None
        call, weight = Call.of(x), cast(Tensor, self.base_layer.weight)
        adapter_dtype = next(iter(self._uncast(names[0]).values())).dtype
        if call.autocast and call.dtype.is_floating_point:
            alike = True
        else:
            alike = call.dtype == weight.dtype and (adapter_dtype == call.dtype or narrows(call.dtype, adapter_dtype))
        if not self.chains[names[0]].linear and call.half:
            return None  # the sum would round most of the update away
        return names[0] if alike else None

    @property
    def _is_plain_convolution(self) -> bool:
        base = self.base_layer
        if type(base) not in CONVOLUTIONS or "forward" in vars(base):
            return False
        if base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or base._backward_pre_hooks:
            return False
        weight, bias = cast(Tensor, base.weight), cast("Tensor | None", base.bias)
        trains = weight.requires_grad or (bias is not None and bias.requires_grad)
        return not trains and not is_sharded(weight) and (bias is None or bias.dtype == weight.dtype)

    def _fused(self, x: Tensor, name: str, dtype: torch.dtype) -> Tensor:
        base = cast(nn.Conv2d, self.base_layer)
        update, tensors, scaling = self.chains[name], self.tensors(name), self.scaling[name]
        mask = self._mask(x, name) if self.dropout(name) is not None else None
        padded, window = _window(base, x.to(dtype))
        padded_mask = None if mask is None else _padded_mask(base, mask)
        rows = padded if padded.dim() == len(window.shape) + 2 else padded.unsqueeze(0)
        weight = base.weight.to(dtype)
        bias = None if base.bias is None else base.bias.to(dtype)
        if update.linear:
            down, up = window.weights(*update.lora_factors(tensors))
            up = up * (scaling if mask is None else scaling * keep_scale(cast(Any, self.dropout(name)).p))
            if padded_mask is not None:
                padded_mask = padded_mask.view(rows.shape)
            y = convolve(window, rows, weight, bias, (down.to(dtype), up.to(dtype)), padded_mask)
        else:
            delta = self.to_layout(update.delta_weight(tensors) * scaling)
            y = window.over(rows, weight + delta.to(dtype), bias)
        return y if rows is padded else y.squeeze(0)

    def _mask(self, x: Tensor, adapter_name: str) -> Tensor:
        return keep_mask(x, cast(Any, self.dropouts[adapter_name]).p)

    def _update(self, x: Tensor, name: str, alone: bool) -> Tensor:
        tensors = self.tensors(name)
        dtype = next(iter(tensors.values())).dtype
        as_it_is = kernel_name() in FUSED_KERNELS and narrows(x.dtype, dtype)
        given = self._dropped(x, x if as_it_is else self._cast_input_dtype(x, dtype), name, alone=alone)
        padded, window = _window(cast(nn.Conv2d, self.get_base_layer()), given)
        return convolution_update(window, self.chains[name], padded, tensors, self.scaling[name])


def check_groups(path: str, base: nn.Module, config: ChainConfig) -> None:
    """
    Raises:
        TapertuneError: the rank is no multiple of a convolution's groups; PEFT's LoRA, as which an adapter is exported,
            takes no other.
    """
    groups, name = cast(nn.Conv2d, base).groups, config.row.rank
    rank = getattr(config, name)
    if rank % groups:
        below = rank // groups * groups
        ranks = " or ".join(str(allowed) for allowed in (below, below + groups) if allowed)
        raise TapertuneError(
            f"{name} is {rank}; {path!r} is a {type(base).__name__} of {groups} groups, which takes multiples of"
            f" {groups}, such as {ranks}: choose one, or leave the layer out (exclude_modules)"
        )


def _padded_mask(base: nn.Conv2d, mask: Tensor) -> Tensor:
    # not every way of padding is there for bytes
    return _window(base, mask if base.padding_mode == "zeros" else mask.float())[0].to(torch.uint8)


def _window(base: nn.Conv2d, x: Tensor) -> tuple[Tensor, Window]:
    """The input with all padding that is not of zeros on both sides alike, and how the base goes over it."""
    dims = len(base.kernel_size)
    padding, pads = base.padding, list(base._reversed_padding_repeated_twice)
    none = (0,) * dims
    if isinstance(padding, str) or base.padding_mode != "zeros":
        mode = "constant" if base.padding_mode == "zeros" else base.padding_mode
        before, after = pads[::2][::-1], pads[1::2][::-1]
        if mode == "constant" and before == after:
            padding = tuple(before)
        else:
            padding = none
            lead = x if mode == "constant" or x.dim() == dims + 2 else x.unsqueeze(0)
            lead = F.pad(lead, pads, mode=mode)
            x = lead if lead.dim() == x.dim() else lead.squeeze(0)
    window = Window(base.kernel_size, base.stride, tuple(padding), base.dilation, base.groups)
    return x, window
