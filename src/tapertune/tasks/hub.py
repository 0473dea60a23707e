"""Data sets on the hub, or in its cache, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import TapertuneError
from .base import Task
from .files import Numbered, Table


def hub_tables(task: Task, splits: Sequence[str], *, stream: bool = False) -> dict[str, Table]:
    """Tables of a hub data set's splits, by name.

    Raises:
        TapertuneError: the task has none, it cannot be had, or it has no such split.
    """
    if task.hub is None:
        raise no_files(task)
    import datasets
    from datasets.exceptions import DatasetsError

    path, name = task.hub
    full = f"{path}/{name}" if name else path
    try:
        loaded: Any = datasets.load_dataset(path, name or None, streaming=stream)
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error).strip().split("\n")[0]
        raise TapertuneError(
            f"cannot get {full} from the hub or its cache ({reason}). Set task.data (--data) to a folder instead"
        ) from error
    for split in splits:
        if split not in loaded:
            raise TapertuneError(f"{full} has no split {split!r}. Splits: {', '.join(loaded)}")
    return {split: _table(loaded[split], f"{full} {split}") for split in splits}


def no_files(task: Task) -> TapertuneError:
    """The error for a task that has no data set on the hub, and is given none."""
    return TapertuneError(f"task {task.name!r} needs files: set task.data to a folder, or task.train and .validation")


def _table(rows: Any, name: str) -> Table:
    def read() -> Numbered:
        for number, row in enumerate(rows, 1):
            yield number, dict(row)

    return Table(name=name, unit="row", read=read)
