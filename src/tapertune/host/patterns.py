"""Regular expressions that configs hold, which match in bounded time or are refused."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import TapertuneError, shown

SECONDS = 10.0  # of processor time for all names of a model; what does not repeat inside of repeats takes milliseconds
_FIELDS = ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern")


class _TooLong(BaseException):
    """Not an Exception, so that nobody takes it for one of its own."""


def check_patterns(config: Any, names: Iterable[str], matches: Callable[[str], Any]) -> None:
    """
    Args:
        config: of an adapter.
        names: of all that its patterns are matched against.
        matches: matches one of them.

    Raises:
        TapertuneError: a pattern is no regular expression, or such as ``(a+)+$`` takes for ever. The latter is seen in
            the main thread of a system that measures a process's time.
    """
    try:
        with _bounded(SECONDS):
            for name in names:
                matches(name)
    except _TooLong:
        raise TapertuneError(
            f"{_shown(config)} takes more than {SECONDS:g} s to match with the names of the model's modules: a repeat"
            " inside of a repeat has no bound; write it without, or list the modules' names"
        ) from None
    except (re.error, OverflowError, RecursionError) as error:
        raise TapertuneError(f"{_shown(config)} is no regular expression: {error}") from error


def _shown(config: Any) -> str:
    """The fields that are patterns, with their values; PEFT takes the names in the others for patterns too."""
    values = {name: value for name in _FIELDS if (value := getattr(config, name, None))}
    patterns = {name: value for name, value in values.items() if isinstance(value, str)} or values
    return ", ".join(
        f"{name} {shown(sorted(value) if isinstance(value, set) else value)}" for name, value in patterns.items()
    )


@contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """Raises ``_TooLong`` in a body that takes more processor time, where the system can say so."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "ITIMER_VIRTUAL"):
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise _TooLong

    handler = signal.signal(signal.SIGVTALRM, stop)
    rest = signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, *rest)
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL if handler is None else handler)
