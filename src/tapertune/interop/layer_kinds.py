"""What adapted layers are that are not linear: as an adapter's config tells, and as files hold their weights.

An update is a matrix (d_out, d_in) whatever the layer; a weight has the layout of its kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import TapertuneError, bad_value, unknown

_TYPES = ("Linear", "Embedding", "Conv1d", "Conv2d", "Conv3d", "MultiheadAttention")
_INSIDE = ".base_layer."


@dataclass(frozen=True, kw_only=True)
class LayerKind:
    """A kind of layer; attributes as torch's layers have them.

    Attributes:
        type: the name of torch's class.
        d_in: columns of its update, where the config tells.
    """

    type: str = "Linear"
    kernel_size: tuple[int, ...] = ()
    groups: int = 1
    dilation: tuple[int, ...] = ()
    padding_mode: str = "zeros"
    d_in: int | None = None

    @property
    def convolves(self) -> bool:
        return self.type.startswith("Conv")

    @property
    def embeds(self) -> bool:
        return self.type == "Embedding"

    def stored_shape(self, widths: tuple[int, int]) -> tuple[int, ...]:
        """The shape of a weight whose update is (d_out, d_in)."""
        d_out, d_in = widths
        if self.embeds:
            return d_in, d_out
        elements = 1
        for size in self.kernel_size:
            elements *= size
        return (d_out, d_in // elements, *self.kernel_size) if self.convolves else (d_out, d_in)

    def rank(self, rank: int) -> int:
        """Of PEFT's LoRA for an update of that rank: there each group of a convolution has components of its own."""
        return rank * self.groups

    def lora(self, down: Tensor, up: Tensor) -> dict[str, Tensor]:
        """The tensors of PEFT's LoRA by their names in its files, for ``up @ down``."""
        if self.embeds:
            return {"lora_embedding_A": down, "lora_embedding_B": up}
        if not self.convolves:
            return {"lora_A.weight": down, "lora_B.weight": up}
        rank, ones = down.shape[0], (1,) * len(self.kernel_size)
        weight = down.reshape(rank, -1, *self.kernel_size)
        channels = weight.shape[1]
        wide = weight.new_zeros(self.rank(rank), self.groups * channels, *self.kernel_size)
        for group in range(self.groups):
            wide[group * rank : (group + 1) * rank, group * channels : (group + 1) * channels] = weight
        return {"lora_A.weight": wide, "lora_B.weight": up.reshape(*up.shape, *ones)}

    def check_lora(self, module: str) -> None:
        """
        Raises:
            TapertuneError: PEFT's LoRA computes another update than this kind's.
        """
        left = f"a dilation of {max(self.dilation)}" if any(step != 1 for step in self.dilation) else None
        left = f"padding_mode {self.padding_mode!r}" if self.padding_mode != "zeros" else left
        if left is not None:
            raise TapertuneError(
                f"{module} is a {self.type} with {left}, which PEFT's LoRA does not take over from the layer: its"
                " update would be another one. Write merged weights (tapertune merge), or leave the layer out"
            )


LINEAR = LayerKind()


def read_kinds(where: str, values: Mapping[str, Any]) -> dict[str, LayerKind]:
    """The kinds in a config's ``layer_kinds``, by module.

    Raises:
        TapertuneError: an unknown type, or a field of the wrong kind.
    """
    return {module: _read(f"{where}: layer_kinds.{module}", value) for module, value in values.items()}


def _read(where: str, value: Any) -> LayerKind:
    if not isinstance(value, Mapping):
        raise bad_value(where, value, "an object")
    name = value.get("type")
    if not isinstance(name, str) or name not in _TYPES:
        raise unknown(f"{where}.type", str(name), _TYPES)
    dims = int(name[4]) if name.startswith("Conv") else 0
    groups, d_in, mode = value.get("groups", 1), value.get("d_in"), value.get("padding_mode", "zeros")
    for field, number in (("groups", groups), ("d_in", 1 if d_in is None else d_in)):
        if not _natural(number):
            raise bad_value(f"{where}.{field}", number, "a positive whole number")
    if not isinstance(mode, str):
        raise bad_value(f"{where}.padding_mode", mode, "text")
    sizes = {}
    for field in ("kernel_size", "dilation"):
        numbers = value.get(field, [1] * dims)
        if not isinstance(numbers, Sequence) or len(numbers) != dims or not all(_natural(n) for n in numbers):
            raise bad_value(f"{where}.{field}", numbers, f"a list of {dims} positive whole numbers")
        sizes[field] = tuple(numbers)
    return LayerKind(type=name, groups=groups, d_in=d_in, padding_mode=mode, **sizes)


def _natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40


def base_path(module: str) -> str:
    """A module's path in the base model, in which nothing is wrapped."""
    return module.replace(_INSIDE, ".")


def weight_path(module: str, kind: LayerKind) -> str:
    """The name of the weight in the base model that an adapted module's update is added to."""
    return base_path(module) + (".in_proj_weight" if kind.type == "MultiheadAttention" else ".weight")


def is_inside(module: str) -> bool:
    """Whether a module is a part of another adapted one, as the output projection of torch's attention is."""
    return _INSIDE in module
