"""``tapertune train``: one run, from a run file, from options, or both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import TapertuneError

if TYPE_CHECKING:
    from ..runfile.settings import RunSettings


class Interrupted(Exception):
    """A signal has ended a run in good order.

    Args:
        message: what is there and how to go on.
        code: of the process's exit.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def train(
    context: typer.Context,
    config: Annotated[str | None, typer.Argument(metavar="FILE", help="Run file (YAML).", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="Base model: a name on the hub, a folder, or minilm.")] = None,
    task: Annotated[str | None, typer.Option(help="A GLUE task, text_classification or regression.")] = None,
    method: Annotated[str | None, typer.Option(help="A method (see `tapertune methods`), or full or head.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder of the data; sample for the one that is shipped.")] = None,
    output_dir: Annotated[str | None, typer.Option(help="The run's folder. [default: runs/METHOD-TASK]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's last checkpoint.")] = False,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out rows that cannot be used.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that the folder holds.")] = False,
    push_to_hub: Annotated[
        str | None,
        typer.Option("--push-to-hub", metavar="OWNER/NAME", help="Publish the result on the Hub when all is done."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push-to-hub: for its owner alone.")] = False,
) -> None:
    """Fine-tune a model and write a run folder: adapter, results, events, report.

    Every setting of a run file is an option too, by its dotted name: --method.r 4 --training.learning_rate 1e-3
    """
    if push_to_hub is not None:
        from ..interop.hub import check_push

        check_push(push_to_hub)
    settings = _settings(
        [*([] if config is None else [config]), *context.args],
        {
            "model": model,
            "task.name": task,
            "method.name": method,
            "task.data": data,
            "output_dir": output_dir,
            "task.skip_bad_rows": skip_bad_rows or None,
        },
        resume=resume,
    )
    from ..report import write_html
    from ..train.distributed import is_first
    from ..train.openmp import are_threads_free
    from ..train.progress import display_for
    from ..train.runner import run
    from ..train.trainer import Terminated

    folder = Path(settings.output_dir)
    try:
        with display_for(settings.name) as display:
            run(settings, resume=resume, overwrite=overwrite, display=display, free_threads=are_threads_free())
    except KeyboardInterrupt as error:
        raise Interrupted(str(error) or "interrupted", 143 if isinstance(error, Terminated) else 130) from error
    if not is_first():
        return
    report = write_html([folder], folder / "report.html")
    _show(folder)
    typer.echo(f"\nadapter: {folder}\nreport:  {report}")
    if push_to_hub is not None:
        from ..interop.hub import push

        typer.echo(f"hub:     {push(folder, push_to_hub, private=private)}")


def _settings(arguments: list[str], named: dict[str, Any], *, resume: bool) -> RunSettings:
    from ..runfile.recipes import run_file
    from ..runfile.record import read_record
    from ..runfile.settings import check_settings, with_overrides
    from ..runfile.yamlfile import parse_overrides, read

    # What is no known option arrives in the order in which it was written, a file among it.
    dotted, files = parse_overrides(arguments)
    if len(files) > 1:
        raise TapertuneError(f"one run file, not {len(files)}: {', '.join(files)}")
    given = {name: value for name, value in named.items() if value is not None}
    twice = sorted(set(given) & set(dotted))
    if twice:
        raise TapertuneError(f"{twice[0]} is given twice")
    folder = given.get("output_dir")
    raw: dict[str, Any] = {}
    if files:
        raw = read(run_file(files[0]))
    elif resume and folder is not None:
        raw = read_record(Path(folder)).settings
    return check_settings(with_overrides(raw, {**given, **dotted}))


def _show(folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..runfile.record import read_record
    from ..runfile.summary import summary

    table = Table(box=None, show_header=False)
    for label, value in summary(read_record(folder)):
        table.add_row(label, value)
    Console().print(table)
