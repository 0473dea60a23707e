"""``tapertune bench``: what a step costs, as a ratio to the frozen model's own step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import TapertuneError, unknown

if TYPE_CHECKING:
    from ..benchmark.job import Announce, Job
    from ..benchmark.schema import Session
    from ..benchmark.setting import Setting

_DEVICES = ("cpu", "cuda")
_DTYPES = ("bfloat16", "float32")
_SUBJECTS_HELP = (
    "Subjects, comma-separated; 'ours-' stands for all that begin so. The floor is always among them. "
    "[default: all but those under torch.compile, 'compiled-']"
)


def bench(
    models: Annotated[
        str | None, typer.Option(help="Models, comma-separated. [default: bert-6x384; on cuda llama-1b]")
    ] = None,
    subjects: Annotated[str | None, typer.Option(help=_SUBJECTS_HELP)] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Steps of each subject that are timed.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="Threads; with one, CPU time is measured, else wall time.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16. [default: float32; on cuda bfloat16]")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows of a batch.")] = 8,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a row.")] = 128,
    peak: Annotated[bool, typer.Option("--peak", help="Peak memory too, each subject in its own process.")] = False,
    growth: Annotated[bool, typer.Option("--growth", help="The controller in 72 and in 224 modules too.")] = False,
    taper: Annotated[int, typer.Option(min=0, help="Follow whole plans too, in runs of so many steps.")] = 0,
    out: Annotated[
        Path, typer.Option(help="The result file. What it has of other models, subjects and settings stays.")
    ] = Path("runs/bench/speed.json"),
    resume: Annotated[bool, typer.Option("--resume", help="Keep what the file has of the same code.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Measure nothing; show what the file has.")] = False,
    table: Annotated[bool, typer.Option("--table", help="Print the page's tables, in Markdown.")] = False,
    write_docs: Annotated[
        bool, typer.Option("--write-docs", help="Fill the tables and pictures of docs/performance.md.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List models and subjects, and stop.")] = False,
) -> None:
    """Measure step time and memory of methods, as a ratio to the frozen model's own step.

    The floor is the frozen model's forward and activation backward. All subjects of a group step in turns.
    """
    if list_:
        _list()
        return
    from ..benchmark.job import Job
    from ..benchmark.variants import choose

    names = _names(models) or ["llama-1b" if device == "cuda" else "bert-6x384"]
    job = Job(
        models=names, variants=choose(_names(subjects)), setting=_setting(device, dtype, threads, batch, length),
        rounds=rounds, out=out, resume=resume, peak=peak, growth=growth, full_run_steps=taper,
    )  # fmt: skip
    session = _measure(job, measure_nothing=show)
    _print(session, job, markdown=table)
    if write_docs:
        from ..benchmark.show.page import write_page

        for path in write_page(session):
            typer.echo(f"written: {path}", err=True)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _setting(device: str, dtype: str | None, threads: int, batch: int, length: int) -> Setting:
    from ..benchmark.setting import Setting

    dtype = dtype or ("bfloat16" if device == "cuda" else "float32")
    for field, value, allowed in (("device", device, _DEVICES), ("dtype", dtype, _DTYPES)):
        if value not in allowed:
            raise unknown(field, value, allowed)
    return Setting.model_validate(
        {"device": device, "dtype": dtype, "threads": threads, "batch": batch, "length": length}
    )


def _measure(job: Job, *, measure_nothing: bool) -> Session:
    from ..benchmark.base_models import model_row
    from ..benchmark.job import measure
    from ..benchmark.schema import read_speed

    for name in job.models:
        model_row(name)
    if not measure_nothing:
        with _progress() as announce:
            return measure(job, announce)
    sessions = [session for session in read_speed(job.out).sessions if session.setting == job.setting]
    if not sessions:
        raise TapertuneError(f"{job.out} has nothing measured with {job.setting.describe()}")
    return sessions[-1]


@contextmanager
def _progress() -> Iterator[Announce]:
    """A bar for each group on stderr; where that is no terminal, a line for each."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:

        def announce(label: str, steps: int) -> Callable[[], None]:
            if not console.is_terminal:
                typer.echo(label, err=True)
            task = bars.add_task(label, total=steps)
            return lambda: bars.advance(task)

        yield announce


def _print(session: Session, job: Job, *, markdown: bool) -> None:
    from rich.console import Console

    from ..benchmark.show.markdown import PARTS
    from ..benchmark.show.terminal import tables

    if markdown:
        typer.echo("\n".join(part(session) for part in PARTS.values()), nl=False)
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    for each in tables(session, job.models, job.variants):
        console.print(each)
    typer.echo(f"results: {job.out}")


def _list() -> None:
    from rich.console import Console
    from rich.table import Table

    from ..benchmark.base_models import MODELS
    from ..benchmark.variants import ALL

    rows: Sequence[tuple[str, dict[str, Any]]] = (("model", MODELS), ("subject", ALL))
    for head, known in rows:
        table = Table(head, "what", box=None, pad_edge=False)
        for name, row in known.items():
            table.add_row(name, row.what)
        Console().print(table)
        typer.echo()
