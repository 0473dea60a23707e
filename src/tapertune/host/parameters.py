"""A model's adapter as the controller sees it: a list of factors that can be read and frozen."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from ..methods import Matrix
from .config import ChainConfig
from .held_matrix import HeldMatrixLayer
from .layer import ChainLayer
from .module_names import layer_index, row_label
from .search import AdaptedPart, adapted_parts

_LOOKING = "_looking_for_gradients"


@dataclass(frozen=True, kw_only=True)
class FactorParameter:
    """One factor of one adapted module; see ``tapertune.adapt.Handle``."""

    name: str
    module: str
    factor: str
    layer: int | None
    row: str
    kind: str
    matrix: bool
    shared: bool
    symbols: tuple[str, ...]
    home: ChainLayer
    adapter: str
    config: ChainConfig

    @property
    def parameter(self) -> nn.Parameter:
        return self.home.factor(self.adapter, self.factor)

    @property
    def _weights(self) -> str:
        """How PEFT calls what holds the factor."""
        return self.home.method.prefix + self.factor

    @property
    def routed(self) -> bool:
        """Whether not every step reaches it: it is an expert's."""
        return isinstance(self.home, HeldMatrixLayer) and self.home.routed

    @property
    def unreached(self) -> bool:
        """Whether no row of any input has gone through its matrix in training."""
        return self.routed and cast(HeldMatrixLayer, self.home).unreached

    @property
    def frozen(self) -> bool:
        return self._weights in self.home.frozen_peft_weight_names.get(self.adapter, ())

    @property
    def pruned(self) -> bool:
        return self.home.rank(self.adapter) != getattr(self.config, self.config.row.rank)

    def freeze(self) -> None:
        self.home.freeze_factors(self.adapter, [self.factor])
        frozen = {*self.config.frozen.get(self.home.module_path, ()), self.factor}
        # in the chain's order, in whatever order they have frozen, so that equal runs write equal files
        order = self.home.chains[self.adapter].names
        self.config.frozen[self.home.module_path] = [name for name in order if name in frozen]

    def thaw(self) -> None:
        self._release()
        left = [name for name in self.config.frozen.pop(self.home.module_path, []) if name != self.factor]
        if left:
            self.config.frozen[self.home.module_path] = left

    def settle(self) -> None:
        if not self.parameter.numel():
            self.home.freeze_factors(self.adapter, [self.factor])
        elif self.frozen and self.factor not in self.config.frozen.get(self.home.module_path, ()) and self._may_train:
            self._release()

    @property
    def _may_train(self) -> bool:
        row = self.config.row
        return not self.shared and row.trains(self.config.settings(), self.factor, self.kind)

    def _release(self) -> None:
        held = self.home.frozen_peft_weight_names.get(self.adapter, ())
        self.home.frozen_peft_weight_names[self.adapter] = tuple(name for name in held if name != self._weights)
        self.parameter.requires_grad_(True)

    def merge_frozen(self) -> bool:
        return self.home.merge_frozen(self.adapter)

    def unmerge_frozen(self) -> None:
        self.home.merged_weight.ask(frozen=None)

    def expect_input_without_gradient(self) -> None:
        """Warns at the module's next training pass if gradients go on below it, so that backward does not end there."""
        if _LOOKING not in vars(self.home):
            setattr(self.home, _LOOKING, self.home.register_forward_pre_hook(_look))


def _look(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    """A forward pre-hook; no closure, so that a model that waits for its next pass can be pickled."""
    if not torch.is_grad_enabled():
        return
    vars(layer).pop(_LOOKING).remove()
    if any(isinstance(x, torch.Tensor) and x.requires_grad for x in inputs):
        warnings.warn(
            f"policy bottom_up: gradients go on below {layer.module_path}, the lowest adapted module, so that freezing "
            "layers from the bottom up saves only the adapters' own work. Something below trains (embeddings in "
            "modules_to_save, say), or inputs are made to ask for gradients, as transformers does for activation "
            "checkpointing: with use_reentrant=False that is not needed, and model.disable_input_require_grads() after "
            "switching checkpointing on takes it back",
            stacklevel=2,
        )


def adapter_parameters(model: nn.Module, adapter_name: str = "default") -> list[FactorParameter]:
    """The factors of a model's adapter, module by module in the model's order.

    The adapter may be in a part of the model, or in several; of several, the names begin with the part's path.

    Raises:
        TapertuneError: the model has no such adapter, it is not one of ours, or it is several that differ.
    """
    parts = adapted_parts(model, adapter_name)
    return [handle for part in parts for handle in _handles(part, adapter_name, f"{part.path}." if parts[1:] else "")]


def _handles(part: AdaptedPart, adapter_name: str, prefix: str) -> list[FactorParameter]:
    return [
        FactorParameter(
            name=f"{prefix}{layer.module_path}.{factor.name}",
            module=prefix + layer.module_path,
            factor=factor.name,
            layer=layer_index(layer.module_path),
            row=prefix + row_label(layer.module_path, factor.name),
            kind=layer.kind,
            matrix=isinstance(factor, Matrix),
            shared=isinstance(factor, Matrix) and factor.shared,
            symbols=factor.symbols,
            home=layer,
            adapter=adapter_name,
            config=part.config,
        )
        for layer in part.module.modules()
        if isinstance(layer, ChainLayer) and adapter_name in layer.chains
        for factor in layer.chains[adapter_name]
    ]
