"""A module some of whose parameters are adapted: stacked experts, or a router's matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..kernels import transformed
from ..kernels.adapted_weight import adapted_weight, summed_weight
from ..kernels.grouped import StackedUpdate
from ..kernels.selection import uncompiled
from .config import ChainConfig
from .factor_modules import is_shared
from .held_matrix import HeldMatrix, HeldMatrixLayer, RowCounter, held_matrix_class, held_parameter
from .older_peft import TunerLayer


class ParameterLayer(nn.Module, TunerLayer):
    """Calls a module with tensors in the place of its adapted parameters that stand for them and their updates.

    Each matrix of a parameter has a chain of its own, under the parameter's name and the matrix's index in the stack:
    ``experts.gate_up_proj.3``. Adapters are switched, merged and deleted there.

    Args:
        base_layer: the module.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.adapter_layer_names = ()
        self.other_param_names = ()
        self.frozen_peft_weight_names = {}
        self.merged_adapters = []
        self._disable_adapters = False
        self._active_adapter = []
        self.parameter_names: tuple[str, ...] = ()
        self.row_counter: RowCounter | None = None

    # ---- adapters ----------------------------------------------------------------------------------------------------

    def adapt(self, method: str, parameter: str, path: str, adapter_name: str, config: ChainConfig) -> None:
        """Adds an adapter to a parameter.

        Args:
            method: the adapter's.
            parameter: the parameter's name in the module.
            path: of the parameter in the model.
            adapter_name: the adapter's.
            config: the adapter's.
        """
        if parameter in self.parameter_names:
            for layer in self.matrices(parameter):
                layer.update_layer(adapter_name, config)
            return
        kind = held_matrix_class(method)
        layers = [
            kind(matrix, adapter_name, config, name) for name, matrix in held_matrices(self.base_layer, path).items()
        ]
        stacked = held_parameter(self.base_layer, parameter).dim() == 3
        if self.row_counter is None or self.row_counter.count != len(layers):
            self.row_counter = RowCounter(len(layers))
        for layer in layers:
            layer.row_counter = self.row_counter
        # add_module refuses a name that the module around which this is has
        self._modules[parameter] = nn.ModuleList(layers) if stacked else layers[0]
        self.parameter_names = (*self.parameter_names, parameter)

    def matrices(self, parameter: str) -> list[HeldMatrixLayer]:
        """The matrices of an adapted parameter, in order."""
        child = self._modules[parameter]
        return [child] if isinstance(child, HeldMatrixLayer) else list(cast(Any, child))

    @property
    def layers(self) -> list[HeldMatrixLayer]:
        """The matrices of all adapted parameters."""
        return [layer for name in self.parameter_names for layer in self.matrices(name)]

    def set_adapter(self, adapter_names: str | list[str], *args: Any, **kwargs: Any) -> None:
        self._active_adapter = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Nothing: each matrix merges its own."""

    def unmerge(self) -> None:
        """Nothing: as ``merge``."""

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """The module without adapters; with them in its parameters, where asked for."""
        for layer in self.layers if merge else ():
            layer.merge(safe_merge=safe_merge, adapter_names=adapter_names)
        return self.base_layer

    # ---- forward -----------------------------------------------------------------------------------------------------

    @uncompiled
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self._stood_for():
            self._count([*args, *kwargs.values()])
            return self.base_layer(*args, **kwargs)

    @contextmanager
    def _stood_for(self) -> Iterator[None]:
        home, names = vars(self.base_layer), []
        try:
            for name in self.parameter_names:
                updates, transposed = self._updates(name), self.matrices(name)[0].base_layer.transposed
                if updates:
                    make: Any = summed_weight if transformed() else adapted_weight
                    weight = held_parameter(self.base_layer, name)
                    home[name] = make(weight, updates, transposed=transposed)
                    names.append(name)
            yield
        finally:
            for name in names:
                del home[name]

    def _updates(self, parameter: str) -> list[StackedUpdate]:
        layers = self.matrices(parameter)
        first = layers[0]
        if first.disable_adapters and any(layer.merged for layer in layers):
            for layer in layers:
                layer.unmerge()
        if first.disable_adapters or first.merged:
            return []
        return [_stacked(layers, adapter) for adapter in first.present_adapters()]

    def _count(self, inputs: Sequence[Any]) -> None:
        """Counts the rows of a training pass, where an input says for which matrices they are."""
        if not self.training or self.row_counter is None or self.row_counter.count < 2 or transformed():
            return
        which = next((x for x in inputs if isinstance(x, Tensor) and x.dtype in (torch.int64, torch.int32)), None)
        if which is not None:
            self.row_counter.add(which)

    def without_rows(self) -> list[int]:
        """The matrices of a stack that no row has gone through in training so far."""
        return [] if self.row_counter is None else self.row_counter.without_rows()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)  # what a model reads of its experts beside calling them


def _stacked(layers: Sequence[HeldMatrixLayer], adapter: str) -> StackedUpdate:
    first = layers[0]
    update = first.chains[adapter]
    tensors = [layer.tensors(adapter) for layer in layers]
    factors = {f.name: tensors[0][f.name] if is_shared(f) else [each[f.name] for each in tensors] for f in update}
    return StackedUpdate(
        update, factors, len(layers), first.method.rank, first.scaling[adapter], first.dropout(adapter)
    )


def held_matrices(home: nn.Module, path: str) -> dict[str, HeldMatrix]:
    """The matrices of a parameter by their paths.

    Args:
        home: the module that has it.
        path: of the parameter in the model.
    """
    name = path.rpartition(".")[2]
    parameter = held_parameter(home, name)
    # a stack's layout is what transformers says of it, and else torch's; a matrix by itself is torch's
    transposed = bool(getattr(home, "is_transposed", False)) and parameter.dim() == 3
    if parameter.dim() == 2:
        return {path: HeldMatrix(home, name, None, transposed)}
    return {f"{path}.{i}": HeldMatrix(home, name, i, transposed) for i in range(parameter.shape[0])}
