"""A method as declared factors, and the mathematics that follows from the declaration alone.

Shapes: a weight is (n_out, n_in) as in ``torch.nn.Linear``; ``d_in`` and ``d_out`` are the adapted layer's widths,
``r`` the rank. Factors are listed from input to output, so that LoRA's ``B A x`` is the chain ``A, B``. Weights may be
stacked along leading axes, as those of many experts are: what is made of them is stacked alike.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TapertuneError
from .rates import UNMEASURED, RateRule

Init: TypeAlias = Callable[[Tensor], Any]
Sizes: TypeAlias = Mapping[str, int]
Tensors: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True)
class Matrix:
    """A dense factor, ``x -> x M'``, with ``M`` of shape (n_out, n_in).

    Attributes:
        name: the factor's name in checkpoints, such as ``A``.
        n_in, n_out: symbols of its widths, such as ``d_in`` or ``r``.
        init: fills a fresh tensor in place.
        shared: one tensor serves all modules, made for the largest and cut to each one's widths; it never trains.
    """

    name: str
    n_in: str
    n_out: str
    init: Init
    shared: bool = False

    @property
    def symbols(self) -> tuple[str, ...]:
        """What each axis of the weight counts."""
        return (self.n_out, self.n_in)

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        return (sizes[self.n_out], sizes[self.n_in])


@dataclass(frozen=True)
class Diagonal:
    """An elementwise factor, ``x -> x * v``, with ``v`` of shape (n,).

    Attributes:
        name: the factor's name in checkpoints, such as ``d``.
        n: symbol of its width.
        init: fills a fresh tensor in place.
    """

    name: str
    n: str
    init: Init

    @property
    def n_in(self) -> str:
        return self.n

    @property
    def n_out(self) -> str:
        return self.n

    @property
    def symbols(self) -> tuple[str, ...]:
        """What each axis of the weight counts."""
        return (self.n,)

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        return (sizes[self.n],)


Factor: TypeAlias = Matrix | Diagonal


class Update:
    """What a method adds to a frozen linear layer: a matrix (d_out, d_in) made of named factors, whose tensors are
    passed in by name. There are two kinds, ``Chain`` and ``MappedChain``.

    Attributes:
        factors: from the input's side to the output's, with what else there is behind.
        names: theirs, in that order.
        linear: whether the update is its factors' product, and so has a lossless two-matrix form.
    """

    factors: tuple[Any, ...]
    names: tuple[str, ...]
    linear: ClassVar[bool]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.factors)

    def __getitem__(self, name: str) -> Any:
        return next(f for f in self.factors if f.name == name)

    @property
    def matrices(self) -> tuple[str, ...]:
        """Names of the dense factors, the ones that freezing saves something on."""
        return tuple(f.name for f in self.factors if isinstance(f, Matrix))

    @property
    def widths(self) -> dict[str, int]:
        """Inner widths that are no field of the method's settings, by symbol."""
        return {}

    def shapes(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        """Weight shapes by factor name."""
        return {f.name: f.shape(sizes) for f in self.factors}

    def parameter_count(self, sizes: Sizes, names: Collection[str] | None = None) -> int:
        """Parameters of the named factors (all, when None) in one adapted layer."""
        return sum(math.prod(f.shape(sizes)) for f in self.factors if names is None or f.name in names)

    def describe(self) -> str:
        """The update in one line: ``A, d, B, b`` for a chain, input to output."""
        raise NotImplementedError

    def apply(self, x: Tensor, tensors: Tensors) -> Tensor:
        """The update of activations as its equations are written: the reference every kernel is held against.

        Args:
            x: (..., d_in).
            tensors: the weights by factor name.

        Returns:
            (..., d_out), without the method's scaling.
        """
        raise NotImplementedError

    def delta_weight(self, tensors: Tensors) -> Tensor:
        """The dense update (d_out, d_in), without the method's scaling."""
        raise NotImplementedError

    def lora_factors(self, tensors: Tensors) -> tuple[Tensor, Tensor]:
        """The lossless two-matrix form: ``(down, up)`` with ``up @ down == delta_weight``.

        Returns:
            down of shape (rank, d_in) and up of shape (d_out, rank), without the method's scaling.

        Raises:
            TapertuneError: there is none.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Chain(Update):
    """Factors from input to output. ``Chain(Matrix("A", "d_in", "r", ..), Matrix("B", "r", "d_out", ..))`` is LoRA."""

    factors: tuple[Factor, ...]
    # not made on demand: torch.compile stops at a cached property's lock
    names: tuple[str, ...] = field(init=False, compare=False, repr=False)
    _places: tuple[int, ...] = field(init=False, compare=False, repr=False)  # where the matrices are

    linear = True

    def __init__(self, *factors: Factor) -> None:
        places = tuple(i for i, f in enumerate(factors) if isinstance(f, Matrix))
        for name, value in (("factors", factors), ("names", tuple(f.name for f in factors)), ("_places", places)):
            object.__setattr__(self, name, value)
        assert factors[0].n_in == "d_in" and factors[-1].n_out == "d_out", "a chain maps d_in to d_out"
        assert all(a.n_out == b.n_in for a, b in itertools.pairwise(factors)), "widths must meet"
        assert len(set(self.names)) == len(factors), "names must differ"
        assert len(places) >= 2, "a low-rank chain has two matrices or more"

    def describe(self) -> str:
        return ", ".join(self.names)

    def apply(self, x: Tensor, tensors: Tensors) -> Tensor:
        for factor in self.factors:
            weight = tensors[factor.name]
            x = F.linear(x, weight) if isinstance(factor, Matrix) else x * weight
        return x

    def lora_factors(self, tensors: Tensors) -> tuple[Tensor, Tensor]:
        """The chain is split at its bottleneck (the first, where there are several), so the rank is the smallest that
        the declaration promises. Differentiable: gradients reach the factors."""
        down, middle, up = self.split(tensors)
        return down, up if middle is None else up * middle.unsqueeze(-2)

    def split(self, tensors: Tensors) -> tuple[Tensor, Tensor | None, Tensor]:
        """The two-matrix form with the vector at the bottleneck left by itself.

        Returns:
            down (rank, d_in), middle (rank,) or None, up (d_out, rank), with ``up diag(middle) down == delta_weight``.
        """
        split, end = self._split(tensors)
        middle = _compose(self.factors[split:end], tensors) if end > split else None
        return _compose(self.factors[:split], tensors), middle, _compose(self.factors[end:], tensors)

    def delta_weight(self, tensors: Tensors) -> Tensor:
        down, up = self.lora_factors(tensors)
        return up @ down

    def rank(self, sizes: Sizes) -> int:
        """The width of the bottleneck."""
        return sizes[self.factors[self.bottleneck(sizes)[0] - 1].n_out]

    def upstream(self, sizes: Sizes) -> tuple[str, ...]:
        """Names of the factors upstream of the bottleneck."""
        return self.names[: self.bottleneck(sizes)[0]]

    def bottleneck(self, sizes: Sizes) -> tuple[int, int]:
        """How many factors are upstream of the bottleneck, and at which place the matrix downstream begins; between
        them is a vector, or nothing."""
        return self._split({name: torch.empty(shape, device="meta") for name, shape in self.shapes(sizes).items()})

    def _split(self, tensors: Tensors) -> tuple[int, int]:
        inner = self._places[:-1]
        narrowest = inner[0]
        for i in inner[1:]:  # a loop, as torch.compile knows no min with a key
            if tensors[self.factors[i].name].shape[-2] < tensors[self.factors[narrowest].name].shape[-2]:
                narrowest = i
        return narrowest + 1, next(i for i in self._places if i > narrowest)


def _compose(factors: tuple[Factor, ...], tensors: Tensors) -> Tensor:
    """The product of consecutive factors as one (n_out, n_in) matrix, or as a vector where all are diagonals."""
    product, is_matrix = tensors[factors[0].name], isinstance(factors[0], Matrix)
    for factor in factors[1:]:
        weight = tensors[factor.name]
        if isinstance(factor, Diagonal):
            product = (weight.unsqueeze(-1) if is_matrix else weight) * product
        elif is_matrix:
            product = weight @ product
        else:
            product, is_matrix = weight * product.unsqueeze(-2), True
    return product


def _always(settings: Any, factor: str, kind: str) -> bool:
    return True


def _pair(own: Mapping[str, str], name: str) -> tuple[str, str]:
    return next(other for other, one in own.items() if one == name), name


def _no_plan(settings: Any) -> dict[str, Any] | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of ``METHODS``: settings, chain, scaling, what trains and the default plan.

    Attributes:
        name: registry key, also in checkpoints: ``aflora``.
        title: the method's name as its authors write it; ``<title>Config`` is its PEFT config.
        summary: one line for listings.
        paper: citation of the mathematics.
        settings: a frozen dataclass type whose fields carry ``help``; it checks itself and has ``dropout``.
        rank: the field of settings that is the (initial) rank, also the symbol of that width in the chain.
        chain: settings -> what it adds to a layer, a Chain or a MappedChain.
        scaling: settings -> the factor on the update.
        trains: (settings, factor name, kind of module: ``attention``, ``ffn`` or ``other``) -> may it train.
        plan: settings -> the default adaptation plan as a dictionary, or None.
        rates: how fast it learns, as a whole and factor by factor.
        tunes: the setting that decides most beside the rate, and values of it to try.
    """

    name: str
    title: str
    summary: str
    paper: str
    settings: type
    chain: Callable[[Any], Update]
    scaling: Callable[[Any], float]
    rank: str = "r"
    trains: Callable[[Any, str, str], bool] = _always
    plan: Callable[[Any], dict[str, Any] | None] = _no_plan
    rates: RateRule = UNMEASURED
    tunes: tuple[str, tuple[Any, ...]] | None = None

    def own_names(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Settings in which PEFT's names of the rank and the dropout, ``r`` and ``lora_dropout``, are the method's own.

        Raises:
            TapertuneError: a setting is given by both names.
        """
        own = {"r": self.rank, "lora_dropout": "dropout"}
        named: dict[str, Any] = {}
        for name, value in values.items():
            if own.get(name, name) in named:
                raise TapertuneError(
                    f"{' and '.join(_pair(own, own.get(name, name)))} are one setting: give one of them"
                )
            named[own.get(name, name)] = value
        return named

    @property
    def config_name(self) -> str:
        return f"{self.title}Config"

    @property
    def peft_name(self) -> str:
        """Name under which PEFT knows the method, apart from any method of PEFT's own."""
        return f"tapertune_{self.name}"

    @functools.cached_property
    def prefix(self) -> str:
        """Prefix of the method's parameters in checkpoints."""
        return f"{self.peft_name}_"
