"""What a controller tells of its run, in order: ``start`` once, before anything else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from .parameter import Handle

EventSink = Callable[..., None]


class Journal:
    """Passes events on. The ``start`` event waits for the first other event or step: until then a saved state may be
    loaded, which says that the run has begun long ago.

    Args:
        sink: called with ``(type, step, **fields)``, or None.
    """

    def __init__(self, sink: EventSink | None) -> None:
        self.sink = sink
        self._start: dict[str, Any] | None = None
        self._begun = False

    def begin(self, fields: Mapping[str, Any]) -> None:
        """Has the ``start`` event of a run that has not begun."""
        self._start = None if self._begun else dict(fields)

    def flush(self) -> None:
        """Writes the ``start`` event if it waits."""
        fields, self._start = self._start, None
        if fields is not None:
            self._begun = True
            if self.sink is not None:
                self.sink("start", 0, **fields)

    def write(self, type: str, step: int, **fields: Any) -> None:
        self.flush()
        if self.sink is not None:
            self.sink(type, step, **fields)

    def close(self) -> None:
        """Writes nothing any more."""
        self._start = self.sink = None

    @property
    def count(self) -> int | None:
        """Events written, where the sink counts them."""
        return getattr(self.sink, "count", None)

    def resume(self, step: int, count: int | None) -> None:
        """Goes on after the events there were when a state was saved at a step; a log forgets later ones."""
        rewind = getattr(self.sink, "rewind", None)
        if rewind is not None and count is not None:
            rewind(count)
        self._begun = step > 0 or bool(count)
        if self._begun:
            self._start = None


def describe(handles: Mapping[str, Handle], training: Collection[str]) -> list[dict[str, Any]]:
    """The factors of an adapter for the ``start`` event; ``training`` names those that train."""
    return [
        {
            "name": name,
            "module": handle.module,
            "factor": handle.factor,
            "layer": handle.layer,
            "row": handle.row,
            "kind": handle.kind,
            "shape": list(handle.parameter.shape),
            "trainable": name in training,
        }
        for name, handle in handles.items()
    ]
