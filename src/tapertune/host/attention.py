"""``nn.MultiheadAttention``, which reads its weights: for each pass they are base and update in one, as in PEFT's LoRA.

The layer's own chain is that of the projection of queries, keys and values; the output projection has an adapted linear
layer of its own within. There is no dropout of the adapter's input, which is nowhere by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn

from ..errors import TapertuneError
from .base_fields import BaseFields
from .config import ChainConfig
from .layer import ChainLayer, layer_class

_IN = "in_proj_weight"
_OUT = "out_proj"


class AttentionLayer(BaseFields, ChainLayer):
    """An adapted ``nn.MultiheadAttention`` whose queries, keys and values have one width."""

    @staticmethod
    def adapts(base: nn.Module) -> bool:
        """Whether a module is one that this adapts."""
        if not isinstance(base, nn.MultiheadAttention) or not base._qkv_same_embed_dim:
            return False
        return isinstance(base.out_proj, nn.Linear | ChainLayer)

    @staticmethod
    def facts_of(base: nn.Module) -> dict[str, Any]:
        return {"type": "MultiheadAttention"}

    @staticmethod
    def inner_paths(path: str) -> list[str]:
        """Paths of the layers within one at this path."""
        return [f"{path}.base_layer.{_OUT}"]

    def update_layer(self, adapter_name: str, config: ChainConfig) -> None:
        super().update_layer(adapter_name, config)
        base: Any = self.get_base_layer()
        if isinstance(base.out_proj, ChainLayer):
            base.out_proj.update_layer(adapter_name, config)
        else:
            (path,) = self.inner_paths(self.module_path)
            base.out_proj = layer_class(self.method.name)(base.out_proj, adapter_name, config, path)

    @property
    def projection(self) -> ChainLayer:
        """The output projection's layer."""
        return cast(ChainLayer, cast(Any, self.get_base_layer()).out_proj)

    def forward(self, query: Tensor, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if kwargs.pop("adapter_names", None) is not None and not self.disable_adapters:
            raise TapertuneError(
                f"adapter_names: {self.module_path!r} is a MultiheadAttention, in which all rows have one adapter"
            )
        if self.disable_adapters:
            for layer in (self, self.projection):
                if layer.merged:
                    layer.unmerge()
        names = [] if self.disable_adapters or self.merged else self.present_adapters()
        if not names:
            return self.base_layer(query, *args, **kwargs)
        out = self.projection
        base = self.get_base_layer()
        with _in_place(base, _IN, _sum(self, names)):
            if out.merged:
                return self.base_layer(query, *args, **kwargs)
            with _in_place(out.get_base_layer(), "weight", _sum(out, [name for name in names if name in out.chains])):
                return self.base_layer(query, *args, **kwargs)

    def get_base_weight(self) -> Tensor:
        return cast(Any, self.get_base_layer()).in_proj_weight.data

    def set_base_weight(self, weight_data: Tensor) -> None:
        cast(Any, self.get_base_layer()).in_proj_weight.data = weight_data

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """What PEFT puts in the layer's place: the attention itself."""
        out = self.projection
        if merge:
            self.merge(safe_merge=safe_merge, adapter_names=adapter_names)
            out.merge(safe_merge=safe_merge, adapter_names=adapter_names)
        base = self.get_base_layer()
        base.out_proj = out.get_base_layer()
        return base


@contextmanager
def _in_place(module: nn.Module, name: str, tensor: Tensor) -> Iterator[None]:
    """While inside, a module's attribute is this tensor. Its parameter stays registered, wherever a sharding wrapper
    keeps it: an attribute of the instance is found before it."""
    attributes = vars(module)
    before = attributes.get(name)
    attributes[name] = tensor
    try:
        yield
    finally:
        del attributes[name]
        if before is not None:
            attributes[name] = before


def _sum(layer: ChainLayer, names: list[str]) -> Tensor:
    """Base weight and updates."""
    weight = layer.get_base_weight()
    for name in names:
        weight = weight + layer.get_delta_weight(name).to(weight.dtype)
    return weight
