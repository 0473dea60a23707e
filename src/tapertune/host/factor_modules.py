"""What holds a layer's factors: a factor of its own, or its part in a projection that all layers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..adapt.actuators import set_data
from ..errors import TapertuneError
from ..methods import Matrix, Update
from ..methods.base import Tensors
from .config import ChainConfig


@dataclass
class Projection:
    """A random projection that all modules of an adapter share, of the largest widths."""

    tensor: Tensor


class SharedWeight(nn.Module):
    """One module's hold on a shared projection. The tensor is no parameter and no buffer of any module, as it belongs
    to none of them: moving or casting one holder moves it for all.

    Args:
        projection: what is shared.
        saved: whether this holder writes it to and reads it from checkpoints; one of the holders does, or none.
    """

    def __init__(self, projection: Projection, saved: bool) -> None:
        super().__init__()
        self.projection, self.saved = projection, saved

    @property
    def weight(self) -> Tensor:
        return self.projection.tensor

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":  # how transformers puts loaded weights in place
            self.projection.tensor = value.detach()
        else:
            super().__setattr__(name, value)

    def _apply(self, fn: Any, recurse: bool = True) -> SharedWeight:
        moved = fn(self.weight)
        # in float32 beside a half-precision base, as PEFT keeps an adapter's parameters
        half = moved.dtype in (torch.float16, torch.bfloat16)
        self.projection.tensor = self.weight.to(moved.device) if half else moved
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        if self.saved:
            destination[prefix + "weight"] = self.weight

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        loaded = state_dict.get(prefix + "weight")
        if self.saved and loaded is not None:
            if loaded.shape != self.weight.shape:
                raise TapertuneError(
                    f"{prefix}weight is saved with shape {tuple(loaded.shape)}; "
                    f"this model needs {tuple(self.weight.shape)}"
                )
            with torch.no_grad():
                self.weight.copy_(loaded)

    def extra_repr(self) -> str:
        return f"shape={tuple(self.weight.shape)}, shared"


class FactorWeight(nn.Module):
    """Holds one factor as ``weight``; never called. Its own module, so that sharding wraps it like any leaf.

    Args:
        weight: the factor.
        rank_axis: the axis along which pruning may have shortened what is loaded, or None.
    """

    def __init__(self, weight: Tensor, rank_axis: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.rank_axis = rank_axis

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Takes the shape of what is loaded, so that checkpoints from before and after pruning load into one model."""
        loaded = state_dict.get(prefix + "weight")
        if loaded is not None and self.rank_axis is not None and loaded.dim() == self.weight.dim():
            shape = list(self.weight.shape)
            shape[self.rank_axis] = loaded.shape[self.rank_axis]
            if shape == list(loaded.shape) != list(self.weight.shape):
                set_data(self.weight, self.weight.data.new_empty(shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        return f"shape={tuple(self.weight.shape)}"


def is_shared(factor: Any) -> bool:
    """Whether one tensor serves all modules."""
    return isinstance(factor, Matrix) and factor.shared


def of_one_dtype(chain: Update, tensors: Tensors) -> Tensors:
    """An adapter's factors by name, shared ones in the dtype of its own; as they are where nothing is to be cast."""
    dtype = next(tensors[f.name].dtype for f in chain if not is_shared(f))
    if all(tensors[f.name].dtype == dtype for f in chain if is_shared(f)):
        return tensors
    return {f.name: tensors[f.name].to(dtype) if is_shared(f) else tensors[f.name] for f in chain}


def shared_weights(chain: Update, sizes: dict[str, Any], config: ChainConfig) -> dict[str, tuple[Projection, bool]]:
    """The chain's shared projections, and whether the module that asks is the one to save them.

    They are drawn once an adapter, in the chain's order, from the seed ``projection_prng_key`` of the settings, in
    float32 on the CPU: the same numbers as PEFT's VeRA draws from the same key.
    """
    wanted = [f for f in chain if is_shared(f)]
    first = not config.projections
    if wanted and first:
        largest = {**sizes, **config.shared_sizes}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(getattr(config, "projection_prng_key", 0))
            for factor in wanted:
                tensor = torch.empty(factor.shape(largest), device="cpu")
                factor.init(tensor)
                config.projections[factor.name] = Projection(tensor)
    saved = first and getattr(config, "save_projection", True)
    return {f.name: (config.projections[f.name], saved) for f in wanted}
