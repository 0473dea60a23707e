"""Runs damaged files through what reads them, and counts what comes of it.

A case is a file made wrong from its number alone, so that any case can be run again: ``python tests/fuzz/run.py --kind
report --only 1-77``. What has to come of it is one line (``TapertuneError``) or an outcome; anything else is a fault:
another exception, a hang, memory beyond the bound, a file left behind, or a wrong value taken without a word.
"""

from __future__ import annotations

import gc
import random
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

from tapertune.errors import TapertuneError

SECONDS = 30  # of processor time a case may take; the slowest healthy one takes a fraction of one
MEGABYTES = 1024  # by which a case may raise the process's peak
_LONGEST = 5000  # characters of a message


@dataclass(frozen=True)
class Damage:
    """What was done to a file.

    Attributes:
        what: in words, for a fault's report.
        wrong: a field has a value of a type that it cannot have: that must be refused, said, or be without effect.
    """

    what: str
    wrong: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a reader made of files: ``value`` is compared with that of the healthy ones; ``said``: it tells of what it
    could not use."""

    value: Any
    said: bool = False


class Kind(Protocol):
    """Files of one kind and what reads them."""

    name: str

    def damage(self, rng: random.Random) -> Damage:
        """Makes one file wrong."""
        ...

    def read(self) -> Outcome:
        """Has the files read as a user would."""
        ...

    def healthy(self) -> Any:
        """What ``read`` makes of the files before they were damaged."""
        ...

    def left(self) -> list[str]:
        """What a refusal has left behind that was not there before."""
        ...

    def restore(self) -> None:
        """Makes the files whole again."""
        ...


class Fault(Exception):
    """A case that came out wrong."""


class Hang(BaseException):
    """A case took too long. Not an Exception, so that no reader takes it for one of its own."""


@contextmanager
def bounded(seconds: int = SECONDS, megabytes: int = MEGABYTES) -> Iterator[None]:
    """Raises ``Hang`` in a body that takes more processor time, or waits ten times as long, and ``Fault`` where its
    memory grew beyond the bound."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = _peak()
    previous = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)
    if _peak() - before > megabytes << 20:
        raise Fault(f"took {(_peak() - before) >> 20} MB")


def attempt(kind: Kind, seed: int, number: int) -> str:
    """One case: ``refused``, ``said``, ``same`` (as without the damage) or ``taken``.

    Raises:
        Fault: it came out wrong.
    """
    rng = random.Random(f"{kind.name}-{seed}-{number}")
    damage = kind.damage(rng)
    where = f"{kind.name} {seed}-{number}: {damage.what}"[:400]
    try:
        with warnings.catch_warnings(), bounded():
            warnings.simplefilter("ignore")
            outcome = kind.read()
    except TapertuneError as error:
        _check_message(where, str(error))
        if left := kind.left():
            raise Fault(f"{where}: left {left}") from error
        return "refused"
    except Hang as error:
        raise Fault(f"{where}: takes more than {SECONDS} s") from error
    except Fault as error:
        raise Fault(f"{where}: {error}") from error
    except Exception as error:
        raise Fault(f"{where}: {type(error).__name__}: {str(error)[:300]}") from error
    finally:
        kind.restore()
    if outcome.value == kind.healthy():
        return "same"
    if outcome.said:
        return "said"
    if damage.wrong:
        raise Fault(f"{where}: taken without a word")
    return "taken"


def fuzz(kind: Kind, seed: int, numbers: Iterable[int], fault: Callable[[Fault], None] | None = None) -> Counter[str]:
    """Outcomes of the cases of these numbers. ``fault`` is told of those that came out wrong, and counted; without it
    the first is raised."""
    counts: Counter[str] = Counter()
    kind.healthy()  # made now, so that its memory counts for no case
    for number in numbers:
        try:
            counts[attempt(kind, seed, number)] += 1
        except Fault as error:
            if fault is None:
                raise
            fault(error)
            counts["fault"] += 1
        if number % 1000 == 999:
            gc.collect()
    return counts


def timed(kind: Kind, seed: int, numbers: range, fault: Callable[[Fault], None] | None = None) -> Counter[str]:
    """``fuzz``, and a line on the terminal with counts and cases a second."""
    began = time.process_time()
    counts = fuzz(kind, seed, numbers, fault)
    rate = len(numbers) / max(time.process_time() - began, 1e-9)
    shown = ", ".join(f"{name} {counts[name]:,}" for name in sorted(counts))
    print(f"{kind.name}: {len(numbers):,} cases, {shown} ({rate:,.0f} a second)", file=sys.stderr, flush=True)
    return counts


def _check_message(where: str, text: str) -> None:
    if "\n" in text.strip() or len(text) > _LONGEST:
        raise Fault(f"{where}: not one line: {text[:500]!r}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Fault(f"{where}: cannot be printed: {text[:200]!r}") from error


def _peak() -> int:
    """The process's largest resident size so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
