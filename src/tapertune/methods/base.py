"""A method as a declared chain of factors, and everything that follows from the declaration alone.

Shapes: a weight is (n_out, n_in) as in ``torch.nn.Linear``; ``d_in`` and ``d_out`` are the adapted layer's widths,
``r`` the rank. Factors are listed from input to output, so that LoRA's ``B A x`` is the chain ``A, B``.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

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


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one token in one adapted layer; a multiply and an add count as two.

    ``vector`` is the elementwise work of the diagonals in all three passes, kept apart because matrix counters (and
    the papers) leave it out.
    """

    forward: int
    input_grad: int
    weight_grad: int
    vector: int = 0

    @property
    def total(self) -> int:
        """All matrix work of a training step."""
        return self.forward + self.input_grad + self.weight_grad

    def __add__(self, other: Flops) -> Flops:
        return Flops(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


@dataclass(frozen=True)
class Chain:
    """Factors from input to output. ``Chain(Matrix("A", "d_in", "r", ...), Matrix("B", "r", "d_out", ...))`` is LoRA.

    Tensors are passed in by factor name; the chain itself holds none.
    """

    factors: tuple[Factor, ...]
    # not made on demand: torch.compile stops at a cached property's lock
    names: tuple[str, ...] = field(init=False, compare=False, repr=False)
    _places: tuple[int, ...] = field(init=False, compare=False, repr=False)  # where the matrices are

    linear = True
    """Whether the update is the factors' product, and so has a two-matrix form."""

    def __init__(self, *factors: Factor) -> None:
        self._hold(factors)
        assert factors[0].n_in == "d_in" and factors[-1].n_out == "d_out", "a chain maps d_in to d_out"
        assert all(a.n_out == b.n_in for a, b in itertools.pairwise(factors)), "widths must meet"
        assert len(set(self.names)) == len(factors), "names must differ"
        assert sum(isinstance(f, Matrix) for f in factors) >= 2, "a low-rank chain has two matrices or more"

    def _hold(self, factors: tuple[Any, ...]) -> None:
        places = tuple(i for i, f in enumerate(factors) if isinstance(f, Matrix))
        for name, value in (("factors", factors), ("names", tuple(f.name for f in factors)), ("_places", places)):
            object.__setattr__(self, name, value)

    def __iter__(self) -> Iterator[Factor]:
        return iter(self.factors)

    def __getitem__(self, name: str) -> Factor:
        return next(f for f in self.factors if f.name == name)

    @property
    def matrices(self) -> tuple[str, ...]:
        """Names of the dense factors, the ones that freezing saves something on."""
        return tuple(f.name for f in self.factors if isinstance(f, Matrix))

    @property
    def widths(self) -> dict[str, int]:
        """Inner widths that are no field of the method's settings, by symbol."""
        return {}

    def describe(self) -> str:
        """The chain in one line, input to output: ``A, d, B, b``."""
        return ", ".join(self.names)

    # ---- mathematics -------------------------------------------------------------------------------------------------

    def apply(self, x: Tensor, tensors: Tensors) -> Tensor:
        """The chain factor by factor: the reference every kernel is held against.

        Args:
            x: (..., d_in).
            tensors: the weights by factor name.

        Returns:
            (..., d_out), without the method's scaling.
        """
        for factor in self.factors:
            weight = tensors[factor.name]
            x = F.linear(x, weight) if isinstance(factor, Matrix) else x * weight
        return x

    def lora_factors(self, tensors: Tensors) -> tuple[Tensor, Tensor]:
        """The lossless two-matrix form: ``(down, up)`` with ``up @ down == delta_weight``.

        The chain is cut where it is narrowest (the first such place), so the rank is the smallest that the
        declaration promises. Differentiable: gradients reach the factors through the folds.

        Returns:
            down of shape (rank, d_in) and up of shape (d_out, rank), without the method's scaling.
        """
        down, middle, up = self.split(tensors)
        return down, up if middle is None else up * middle

    def split(self, tensors: Tensors) -> tuple[Tensor, Tensor | None, Tensor]:
        """The two-matrix form with the vector at the narrowest place left by itself.

        Returns:
            down (rank, d_in), middle (rank,) or None, up (d_out, rank), with ``up diag(middle) down == delta_weight``.
        """
        cut = self._cut(tensors)
        end = next(i for i in self._places if i >= cut)
        middle = _fold(self.factors[cut:end], tensors) if end > cut else None
        return _fold(self.factors[:cut], tensors), middle, _fold(self.factors[end:], tensors)

    def delta_weight(self, tensors: Tensors) -> Tensor:
        """The dense update (d_out, d_in), without the method's scaling."""
        down, up = self.lora_factors(tensors)
        return up @ down

    def _cut(self, tensors: Tensors) -> int:
        inner = self._places[:-1]
        if len(inner) == 1:
            return inner[0] + 1
        narrowest = inner[0]
        for i in inner:  # a loop, as torch.compile knows no min with a key
            if tensors[self.factors[i].name].shape[0] < tensors[self.factors[narrowest].name].shape[0]:
                narrowest = i
        return narrowest + 1

    # ---- accounting --------------------------------------------------------------------------------------------------

    def shapes(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        """Weight shapes by factor name."""
        return {f.name: f.shape(sizes) for f in self.factors}

    def parameter_count(self, sizes: Sizes, names: Collection[str] | None = None) -> int:
        """Parameters of the named factors (all, when None) in one adapted layer."""
        return sum(math.prod(f.shape(sizes)) for f in self.factors if names is None or f.name in names)

    def flops_per_token(
        self,
        sizes: Sizes,
        trains: Collection[str] | None = None,
        *,
        input_grad: bool = True,
        form: Literal["chain", "folded"] = "chain",
    ) -> Flops:
        """Operations of one token, given which factors train (all, when None).

        Args:
            sizes: widths by symbol.
            trains: names of the factors that train.
            input_grad: False for a layer below which nothing trains.
            form: ``chain`` counts factor by factor, as the papers do. ``folded`` counts what the default kernel runs:
                two matrices, one product with the output gradient for all factors behind the narrowest place.
        """
        trains = self.names if trains is None else trains
        if form == "folded":
            cut = self._symbolic_cut(sizes)
            width = sizes[self.factors[cut - 1].n_out]
            sides = ((sizes["d_in"], self.factors[:cut]), (sizes["d_out"], self.factors[cut:]))
            steps = [(2 * width * d, 0, any(f.name in trains for f in side)) for d, side in sides]
        else:
            steps = [
                (2 * math.prod(f.shape(sizes)), 0, f.name in trains)
                if isinstance(f, Matrix)
                else (0, sizes[f.n], f.name in trains)
                for f in self.factors
            ]
        flops = Flops(0, 0, 0)
        needed = input_grad
        for dense, vector, trained in steps:
            back = needed  # the gradient passes this factor when something before it, or the input, needs it
            flops += Flops(dense, dense * back, dense * trained, vector * (1 + back + 2 * trained))
            needed = needed or trained
        return flops

    def flops_per_pass(
        self,
        sizes: Sizes,
        trains: Collection[str] | None = None,
        *,
        input_grad: bool = True,
        form: Literal["chain", "folded"] = "chain",
    ) -> Flops:
        """Operations that one forward and backward pass of any number of tokens adds to ``flops_per_token``.

        ``chain`` has none. ``folded`` multiplies inner factors into the two matrices, and takes these matrices'
        gradients to them. Arguments as for ``flops_per_token``.
        """
        flops = Flops(0, 0, 0)
        if form == "chain":
            return flops
        trains = self.names if trains is None else trains
        cut = self._symbolic_cut(sizes)
        # a vector at the cut is left by itself
        end = next(i for i in self._places if i >= cut)
        for side in (self.factors[:cut], self.factors[end:]):
            columns, needed = 0, False  # of what is folded so far, and whether it wants a gradient
            for factor in side:
                trained = factor.name in trains
                if isinstance(factor, Matrix):
                    product = 2 * math.prod(factor.shape(sizes)) * columns
                    flops += Flops(product, 0, product * (needed + trained))
                    columns = columns or sizes[factor.n_in]
                needed = needed or trained
        return flops

    def saved_bytes_per_token(self, sizes: Sizes, trains: Collection[str] | None = None, itemsize: int = 4) -> int:
        """Activation bytes that one token keeps for backward in the folded form, beyond the base layer's own.

        The input is kept only while a factor before the narrowest place trains, the narrow product only while one
        behind it does; nothing d_out-wide ever is (methods that train only vectors keep r numbers a token).
        """
        trains = self.names if trains is None else trains
        cut = self._symbolic_cut(sizes)
        before = any(f.name in trains for f in self.factors[:cut])
        behind = any(f.name in trains for f in self.factors[cut:])
        return itemsize * (before * sizes["d_in"] + behind * sizes[self.factors[cut - 1].n_out])

    def rank(self, sizes: Sizes) -> int:
        """The width of the narrowest place."""
        return sizes[self.factors[self._symbolic_cut(sizes) - 1].n_out]

    def before_cut(self, sizes: Sizes) -> tuple[str, ...]:
        """Names of the factors before the narrowest place."""
        return self.names[: self._symbolic_cut(sizes)]

    def _symbolic_cut(self, sizes: Sizes) -> int:
        return self._cut({name: torch.empty(shape, device="meta") for name, shape in self.shapes(sizes).items()})


def _fold(factors: tuple[Factor, ...], tensors: Tensors) -> Tensor:
    """The product of consecutive factors as one (n_out, n_in) matrix; there is at least one Matrix among them."""
    folded = tensors[factors[0].name]
    for factor in factors[1:]:
        weight = tensors[factor.name]
        if isinstance(factor, Diagonal):
            folded = weight.unsqueeze(-1) * folded if folded.dim() == 2 else weight * folded
        else:
            folded = weight @ folded if folded.dim() == 2 else weight * folded
    return folded


def _always(settings: Any, factor: str, kind: str) -> bool:
    return True


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
        chain: settings -> Chain.
        scaling: settings -> the factor on the chain's output.
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
    chain: Callable[[Any], Chain]
    scaling: Callable[[Any], float]
    rank: str = "r"
    trains: Callable[[Any, str, str], bool] = _always
    plan: Callable[[Any], dict[str, Any] | None] = _no_plan
    rates: RateRule = UNMEASURED
    tunes: tuple[str, tuple[Any, ...]] | None = None

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
