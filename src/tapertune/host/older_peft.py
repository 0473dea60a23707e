"""What older versions of peft lack, in the form that 0.21 has it. Nothing here acts under 0.21 and later.

Before 0.20 peft left quantised layers to each of its methods, and had no factors that stay frozen: ``TunerLayer`` has
both. There bitsandbytes' layers train and merge as they do later; torchao's train and are not merged into; other
quantised layers are refused, as any module that is no linear layer is. Before 0.21 no method was asked when its adapter
was saved: ``call_before_saving`` has peft ask.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import save_and_load
from torch import Tensor, nn

if TYPE_CHECKING or hasattr(BaseTunerLayer, "get_base_weight"):
    from peft.utils import resolve_quantization_backend
    from peft.utils.quantization_utils import get_quantization_kwargs, quantization_extra_repr

    TunerLayer = BaseTunerLayer
else:
    from peft.utils.integrations import dequantize_bnb_weight

    class Backend:
        """How the weight of a quantised layer is read and written.

        Attributes:
            backend_name: what errors call it.
            supports_merge: whether an update can be added to the weight.
        """

        def __init__(self, backend_name: str, supports_merge: bool = False) -> None:
            self.backend_name, self.supports_merge = backend_name, supports_merge

        def get_base_weight(self, base_layer: nn.Module) -> Tensor:
            raise TypeError(f"weights of {self.backend_name} layers cannot be read with this version of peft")

        def set_base_weight(self, peft_layer: Any, weight_data: Tensor) -> None:
            raise TypeError(f"weights of {self.backend_name} layers cannot be written with this version of peft")

        def maybe_clone_base_result(self, x: Tensor) -> Tensor:
            return x

    class EightBit(Backend):
        """bitsandbytes' ``Linear8bitLt``."""

        def __init__(self) -> None:
            super().__init__("bnb 8bit", supports_merge=True)

        def get_base_weight(self, base_layer: Any) -> Tensor:
            return dequantize_bnb_weight(base_layer.weight, state=base_layer.state)

        def set_base_weight(self, peft_layer: Any, weight_data: Tensor) -> None:
            import bitsandbytes as bnb

            layer = peft_layer.get_base_layer()
            options = {"requires_grad": False, "has_fp16_weights": layer.weight.has_fp16_weights}
            layer.weight = bnb.nn.Int8Params(weight_data.cpu(), **options).to(layer.weight.device)
            layer.state.reset_grads()

    class FourBit(Backend):
        """bitsandbytes' ``Linear4bit``."""

        def __init__(self) -> None:
            super().__init__("bnb 4bit", supports_merge=True)

        def get_base_weight(self, base_layer: Any) -> Tensor:
            return dequantize_bnb_weight(base_layer.weight, state=base_layer.weight.quant_state)

        def set_base_weight(self, peft_layer: Any, weight_data: Tensor) -> None:
            import bitsandbytes as bnb

            layer = peft_layer.get_base_layer()
            options = {name: value for name, value in vars(layer.weight).items() if not name.startswith("_")}
            options = {**options, "requires_grad": False, "bnb_quantized": False}
            layer.weight = bnb.nn.Params4bit(weight_data.cpu(), **options).to(layer.weight.device)

        def maybe_clone_base_result(self, x: Tensor) -> Tensor:
            return x.clone()  # its result can be a view that autograd does not let others change

    class TunerLayer(BaseTunerLayer):
        """A peft layer that reads and writes its base's weight, and keeps frozen what is named as frozen."""

        quantization_backend: Backend | None = None
        frozen_peft_weight_names: dict[str, tuple[str, ...]]

        def get_base_weight(self) -> Tensor:
            base = self.get_base_layer()
            backend = self.quantization_backend
            return base.weight.data if backend is None else backend.get_base_weight(base)

        def set_base_weight(self, weight_data: Tensor) -> None:
            if self.quantization_backend is not None:
                self.quantization_backend.set_base_weight(self, weight_data)
            else:
                self.get_base_layer().weight.data = weight_data

        def set_adapter(self, adapter_names: str | list[str], *args: Any, **kwargs: Any) -> None:
            super().set_adapter(adapter_names, *args, **kwargs)
            self._freeze_non_trainable_peft_weights(adapter_names)

        def set_requires_grad(self, adapter_names: str | Sequence[str], *args: Any, **kwargs: Any) -> None:
            super().set_requires_grad(adapter_names, *args, **kwargs)
            self._freeze_non_trainable_peft_weights(adapter_names)

        def delete_adapter(self, adapter_name: str) -> None:
            super().delete_adapter(adapter_name)
            self.frozen_peft_weight_names.pop(adapter_name, None)

        def _freeze_non_trainable_peft_weights(self, adapter_names: str | Sequence[str]) -> None:
            for adapter in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
                for name in self.frozen_peft_weight_names.get(adapter, ()):
                    weights = getattr(self, name, {})
                    if adapter in weights:
                        weights[adapter].requires_grad_(False)

    def resolve_quantization_backend(base_layer: nn.Module, **kwargs: Any) -> Backend | None:
        """The backend of a quantised layer; None for any other module."""
        if importlib.util.find_spec("bitsandbytes") is not None:
            import bitsandbytes as bnb

            for kind, backend in (("Linear8bitLt", EightBit), ("Linear4bit", FourBit)):
                if isinstance(base_layer, getattr(bnb.nn, kind, ())):
                    return backend()
        weight = getattr(base_layer, "weight", None)
        if isinstance(weight, torch.Tensor) and type(weight).__module__.startswith("torchao."):
            return Backend("torchao")
        return None

    def get_quantization_kwargs(model: nn.Module) -> dict[str, Any]:
        return {}

    def quantization_extra_repr(module: nn.Module) -> str:
        base = nn.Module.extra_repr(module)
        backend = getattr(module, "quantization_backend", None)
        return ", ".join(part for part in (base, backend and f"quantization_backend={backend.backend_name!r}") if part)


SAVING = "get_peft_model_state_dict"
ASKS_WHEN_SAVING = hasattr(BaseTuner, "_get_adapter_state_dict")
"""Whether this peft asks a method's tuner for its state."""


def call_before_saving(note: Callable[[nn.Module, str], Any]) -> None:
    """Where peft asks no tuner, has it call ``note(model, adapter_name)`` whenever an adapter's weights are collected.

    Every module that has peft's function already, of whichever library, gets the one that calls.
    """
    original = getattr(save_and_load, SAVING)
    if ASKS_WHEN_SAVING or getattr(original, "calls_before_saving", False):
        return

    @functools.wraps(original)
    def state_dict_of(
        model: Any, state_dict: Any = None, adapter_name: str = "default", *args: Any, **kwargs: Any
    ) -> Any:
        note(model, adapter_name)
        return original(model, state_dict, adapter_name, *args, **kwargs)

    state_dict_of.calls_before_saving = True  # type: ignore[attr-defined]
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType) and vars(module).get(SAVING) is original:
            setattr(module, SAVING, state_dict_of)


__all__ = [
    "ASKS_WHEN_SAVING",
    "TunerLayer",
    "call_before_saving",
    "get_quantization_kwargs",
    "quantization_extra_repr",
    "resolve_quantization_backend",
]
