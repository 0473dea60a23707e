"""Whether gradients are there at all: without one, a plan scores nothing and a penalty changes nothing."""

from __future__ import annotations

from collections.abc import Iterable

from torch.nn import Parameter

from .sharding import is_sharded


class GradientCheck:
    """
    Attributes:
        found: whether a gradient that is not zero has been seen.
        unread: whether the last look left gradients on an accelerator unread.
    """

    def __init__(self) -> None:
        self.found = self.unread = False

    def look(self, parameters: Iterable[Parameter], *, due: bool) -> None:
        """Looks for a gradient that is not zero. On an accelerator, which would be waited for, only where a decision is
        ``due``; before, any gradient counts as one."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.unread = not due and any(gradient.device.type != "cpu" for gradient in gradients)
        self.found = not self.unread and any(is_sharded(one) or bool(one.any()) for one in gradients)
