"""What ``evaluate`` and ``predict`` share: options of the task, a progress bar, notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from ..errors import TapertuneError, unknown

if TYPE_CHECKING:
    from ..train.evaluation import Start


def task_options(context: typer.Context, **named: Any) -> dict[str, Any]:
    """Settings of the task block: those given as ``--task.NAME VALUE`` and those with options of their own."""
    from ..runfile.blocks import TaskBlock
    from ..runfile.yamlfile import parse_overrides

    dotted, rest = parse_overrides(context.args)
    if rest:
        raise TapertuneError(f"unexpected argument {rest[0]!r}")
    given = {name: value for name, value in named.items() if value is not None and value is not False}
    for key, value in dotted.items():
        block, _, name = key.partition(".")
        if block != "task" or not name:
            settings = [f"--task.{field}" for field in TaskBlock.model_fields]
            own = [option for parameter in context.command.params for option in parameter.opts if option[:2] == "--"]
            raise unknown("option", f"--{key.replace('_', '-')}", settings, settings=[*own, *settings])
        if name in given:
            raise TapertuneError(f"task.{name} is given twice")
        given[name] = value
    return given


@contextmanager
def progress_bar(label: str) -> Iterator[Start]:
    """A bar on stderr while it is a terminal; call it with the number of rows, and then with those done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..train.distributed import is_first

    console = Console(stderr=True)
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = console.is_terminal and is_first()
    with Progress(*columns, console=console, disable=not shown, transient=True) as bar:

        def start(total: int) -> Any:
            task = bar.add_task("", total=total)
            return lambda rows: bar.advance(task, rows)

        yield start


def tell(notes: Sequence[str]) -> None:
    """Prints notes on stderr, a line each."""
    for note in notes:
        typer.echo(f"note: {note}", err=True)
