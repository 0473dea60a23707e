"""How many parameters train: at the start, now, and on average over the steps."""

from __future__ import annotations


class Tally:
    """
    Args:
        outside: parameters that train outside the adapter.
        inside: parameters of the adapter that train at the start.

    Attributes:
        start: parameters that train at the start, inside and outside.
        now: those that train now.
        sum: of ``now`` over the steps so far.
    """

    def __init__(self, outside: int, inside: int) -> None:
        self.outside = outside
        self.start = self.now = outside + inside
        self.sum = 0

    def set_inside(self, inside: int) -> None:
        """Notes how many of the adapter's parameters train from now on."""
        self.now = self.outside + inside

    def count_step(self) -> None:
        self.sum += self.now

    def average(self, steps: int) -> float:
        """Mean over the steps so far of the parameters that trained in each."""
        return self.sum / steps if steps else float(self.now)
