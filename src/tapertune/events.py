"""What happened while an adapter was trained, as JSON lines. Standard library only.

Every line is one object with ``v`` (schema version), ``type`` and ``step``: the optimizer steps done by then, or, for
``freeze``, ``prune`` and ``skip``, the index t (from 0) of the step at which it happened, as in the papers' figures.
Lines hold no clock and no host name, so that a run that was stopped and resumed writes the same file, byte for byte, as
one that was not.

=========== ==========================================================================================================
type        fields beside ``v``, ``type``, ``step``
=========== ==========================================================================================================
start       ``method``, ``adapter``, ``total_steps``, ``plan`` (object or null), ``factors``: list of {``name``,
            ``module``, ``factor``, ``layer`` (int or null), ``row`` (short label such as ``inter.A``), ``kind``
            (``attention`` or ``ffn``), ``shape``, ``trainable``}, ``other_trainable`` (parameters outside the adapter,
            such as a classifier), ``trainable`` (all trainable parameters)
freeze      ``names`` (factor names), ``threshold`` (float or null), ``remaining`` (the schedule's value, 0 to 1),
            ``trainable`` (after freezing), and ``folded`` (modules computed as one weight by now) where the plan folds
prune       ``ranks`` (rank components in use by module, of all modules), ``budget`` (int or null), ``threshold``,
            ``remaining``, ``removed`` (whether the others' parameters are gone, not only masked), ``trainable``
skip        ``first`` (the first factor whose gradient is not finite), ``skipped`` (steps left out so far)
loss        ``loss``, and ``lr``, ``grad_norm`` where known
eval        ``metrics`` (object of numbers)
end         ``trainable``, ``average_trainable`` (mean over all steps of the parameters that trained in each)
=========== ==========================================================================================================
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import TapertuneError, shown
from .files import LARGEST_TEXT, drop_temporaries, parse_json, read_bytes, write_bytes

VERSION = 1
TYPES = ("start", "freeze", "prune", "skip", "loss", "eval", "end")
Event = dict[str, Any]


class EventLog:
    """Appends events to a file, each flushed whole, and counts them so that a checkpoint knows where to cut.

    Args:
        path: the file, made (with its folder) at the first event.
        keep: events of an earlier run to keep. With 0 the first event starts the file anew, unless ``rewind`` is
            called before; ``Controller.load_state_dict`` does that.
    """

    def __init__(self, path: str | os.PathLike[str], keep: int = 0) -> None:
        self.path = Path(path)
        self.count = keep
        self._anew = not keep
        if keep:
            _truncate(self.path, keep)

    def rewind(self, count: int) -> None:
        """Goes on after the first ``count`` events of the file, and forgets the others: those of a run that went on
        after the checkpoint from which it now goes on again.

        Raises:
            TapertuneError: the file holds fewer.
        """
        if count and count != self.count:
            _truncate(self.path, count)
        self.count, self._anew = count, not count

    def __call__(self, type: str, step: int, **fields: Any) -> None:
        if type not in TYPES:
            raise ValueError(f"unknown event type {type!r}, not one of {TYPES}")
        if self._anew:
            self.path.unlink(missing_ok=True)
            self._anew = False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"v": VERSION, "type": type, "step": step, **fields}, separators=(",", ":"))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self.count += 1


def read_events(path: str | os.PathLike[str]) -> list[Event]:
    """All whole events of a file. A last line cut short by a crash is dropped; any other bad line is an error.

    Raises:
        TapertuneError: no such file, a line that is no event, or one of a newer schema.
    """
    events, faults = whole_events(path)
    if faults:
        raise TapertuneError(f"{path}, {faults[0]}")
    return events


def whole_events(path: str | os.PathLike[str]) -> tuple[list[Event], list[str]]:
    """The events of a file that can be read, and what is wrong with its other lines, such as ``line 3: not an event``.

    Raises:
        TapertuneError: no such file, or an event of a newer schema.
    """
    events: list[Event] = []
    faults: list[str] = []
    lines = read_bytes(path, LARGEST_TEXT).split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            event = parse_json(line.decode("utf-8"))
            if not isinstance(event, dict):
                raise ValueError
        except (ValueError, RecursionError):
            if number < len(lines):  # else it was cut short by a crash
                faults.append(f"line {number}: not an event")
            continue
        version = event.get("v")
        if isinstance(version, int) and version > VERSION:
            raise TapertuneError(f"{path}, line {number}: event schema {version}; this tapertune reads up to {VERSION}")
        fault = check_event(event)
        if fault is None:
            events.append(event)
        else:
            faults.append(f"line {number}: {fault}")
    return events, faults


def check_event(event: Event) -> str | None:
    """What is wrong with an event's fields, by the table above; None where nothing is. Fields that are not in the table
    are left alone, and so is one that is missing: those who need it say so."""
    if not isinstance(event.get("type"), str) or event["type"] not in TYPES:
        return "not an event" if "type" not in event else f"unknown event type {shown(event['type'])}"
    for name, (allowed, words) in (_COMMON | _FIELDS[event["type"]]).items():
        if name in event and not allowed(event[name]):
            return f"{name} is {shown(event[name])}; it must be {words}"
    return next((f"{name} is missing" for name in _COMMON if name not in event), None)


def is_count(value: Any) -> bool:
    """Whether it is a whole number, 0 or more, of at most 63 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST


def is_number(value: Any) -> bool:
    """Whether it is a number that a float holds; NaN and infinity, which diverged runs log, are."""
    return isinstance(value, float) or (
        isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST
    )


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_ranks(value: Any) -> bool:
    return isinstance(value, dict) and all(is_count(rank) for rank in value.values())


def _is_factor(value: Any) -> bool:
    words = ("name", "module", "factor", "row")
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(word), str) for word in words)
        and (value.get("layer") is None or is_count(value["layer"]))
        and isinstance(value.get("shape"), list)
        and all(is_count(size) for size in value["shape"])
        and isinstance(value.get("trainable"), bool)
    )


_Check = tuple[Callable[[Any], bool], str]
_LARGEST = 1 << 63
_COUNT: _Check = is_count, "a whole number, 0 or more"
_NUMBER: _Check = is_number, "a number"
_MAYBE: _Check = lambda value: value is None or is_number(value), "a number or null"
_COMMON: dict[str, _Check] = {"v": _COUNT, "step": _COUNT}
_FIELDS: dict[str, dict[str, _Check]] = {
    "start": {
        "method": (lambda value: value is None or isinstance(value, str), "text"),
        "total_steps": (lambda value: value is None or is_count(value), _COUNT[1]),
        "factors": (
            lambda value: isinstance(value, list) and all(map(_is_factor, value)),
            "a list of factors: factors are not listed as the schema says",
        ),
        "other_trainable": _COUNT, "trainable": _COUNT,
    },
    "freeze": {
        "names": (_is_names, "a list of factors' names"), "threshold": _MAYBE, "remaining": _MAYBE, "trainable": _COUNT,
    },
    "prune": {
        "ranks": (_is_ranks, "whole numbers by module"), "threshold": _MAYBE, "remaining": _MAYBE, "trainable": _COUNT,
        "budget": (lambda value: value is None or is_count(value), "a whole number or null"),
        "removed": (lambda value: isinstance(value, bool), "true or false"),
    },
    "skip": {"first": (lambda value: isinstance(value, str), "a factor's name"), "skipped": _COUNT},
    "loss": {"loss": _NUMBER, "lr": _NUMBER, "grad_norm": _MAYBE},
    "eval": {"metrics": (lambda value: isinstance(value, dict), "numbers by metric")},
    "end": {"trainable": _COUNT, "average_trainable": _NUMBER},
}  # fmt: skip


def _truncate(path: Path, keep: int) -> None:
    lines = read_bytes(path, LARGEST_TEXT).splitlines(keepends=True) if path.exists() else []
    if len(lines) < keep:
        raise TapertuneError(f"{path} holds {len(lines)} events, the checkpoint was written after {keep}")
    drop_temporaries(path.parent)
    write_bytes(path, b"".join(lines[:keep]))
