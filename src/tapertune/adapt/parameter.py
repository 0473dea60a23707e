"""What the host presents of an adapter: its factors, which policies read and the controller acts on."""

from __future__ import annotations

from typing import Protocol

from torch import nn


class AdapterParameter(Protocol):
    """One factor of one adapted module, as policies know it. ``parameter`` is looked up at every use, since a host may
    re-create parameters (dtype casts, loading).

    Attributes:
        name: unique, ``<module>.<factor>``.
        module: path of the adapted module in the base model.
        factor: the factor's name in its chain.
        layer: index of the transformer layer, or None.
        row: short label of the module's role and the factor, equal across layers: ``inter.A``.
        kind: ``attention`` or ``ffn``.
        matrix: whether the factor is dense.
        shared: whether other modules use the same tensor.
        symbols: what each axis of the parameter counts: ``("r", "d_in")``.
    """

    @property
    def name(self) -> str: ...

    @property
    def module(self) -> str: ...

    @property
    def factor(self) -> str: ...

    @property
    def layer(self) -> int | None: ...

    @property
    def row(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def matrix(self) -> bool: ...

    @property
    def shared(self) -> bool: ...

    @property
    def symbols(self) -> tuple[str, ...]: ...

    @property
    def parameter(self) -> nn.Parameter: ...


class Handle(AdapterParameter, Protocol):
    """One factor of one adapted module, as the controller acts on it."""

    @property
    def frozen(self) -> bool:
        """Whether the factor is kept from training, whatever ``requires_grad`` says now."""
        ...

    @property
    def pruned(self) -> bool:
        """Whether the factor's module has lost ranks."""
        ...

    def freeze(self) -> None:
        """Stops training for good: survives every toggle of the host and is saved with the adapter."""
        ...

    def thaw(self) -> None:
        """Trains again what ``freeze`` has stopped."""
        ...

    def settle(self) -> None:
        """Keeps a factor from training that has no elements left, and no longer one that has some again."""
        ...

    def merge_frozen(self) -> bool:
        """Lets the factor's module, in which nothing trains, be computed as one weight; whether it can be."""
        ...

    def unmerge_frozen(self) -> None:
        """Computes the factor's module as any other again."""
        ...
