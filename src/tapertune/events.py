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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import TapertuneError
from .files import drop_temporaries, write_text

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
    return list(_parse(Path(path)))


def _parse(path: Path) -> Iterator[Event]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TapertuneError(f"cannot read events {str(path)!r}: {error.strerror or error}") from error
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            event = json.loads(line)
            version, known = event["v"], event["type"] in TYPES and isinstance(event["step"], int)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            if number == len(lines):
                return
            raise TapertuneError(f"{path}, line {number}: not an event") from error
        if version > VERSION:
            raise TapertuneError(f"{path}, line {number}: event schema {version}; this tapertune reads up to {VERSION}")
        if not known:
            raise TapertuneError(f"{path}, line {number}: unknown event type {event['type']!r}")
        yield event


def _truncate(path: Path, keep: int) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    if len(lines) < keep:
        raise TapertuneError(f"{path} holds {len(lines)} events, the checkpoint was written after {keep}")
    drop_temporaries(path.parent)
    write_text(path, "".join(lines[:keep]))
