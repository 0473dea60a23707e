"""``tapertune compare``: methods by tasks by seeds by learning rates, with equal tuning."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import TapertuneError, bad_value, unknown

if TYPE_CHECKING:
    from ..compare.engine import Engine
    from ..compare.jobs import Comparison
    from ..compare.store import Store

ENGINES = ("local", "ray")
MANY_RUNS, MANY_HOURS = 5000, 200  # beyond these it asks
_GUESS = 60.0  # seconds a run before one has been made


def compare(
    grid: Annotated[Path, typer.Argument(metavar="GRID.yaml", help="The grid's file.", show_default=False)],
    store: Annotated[
        Path | None, typer.Option("--store", metavar="DIR", help="Where records are. [default: runs/compare/NAME]")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Folder of the data of tasks that name no files.")
    ] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Runs at once. [default: one a core]")] = None,
    engine: Annotated[str, typer.Option("--engine", help="local: processes here; ray: a Ray cluster.")] = "local",
    scratch: Annotated[
        Path | None, typer.Option("--scratch", metavar="DIR", help="Where rows and unfinished runs lie.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would run, and stop.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write the report of what is recorded; run nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a grid of many hours.")] = False,
) -> None:
    """Compare methods with equal tuning on any tasks: runs what has no record yet, and writes the report.

    Stopped at any moment and started again, it goes on; several processes may share one store.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if engine == "ray":
        _check_ray()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from ..compare.grid import load_grid
    from ..compare.jobs import make_comparison
    from ..compare.store import Store

    if data is not None and not data.is_dir():
        raise bad_value("--data", str(data), "a folder")
    checked = load_grid(grid)
    place = scratch or Path(tempfile.gettempdir()) / "tapertune-compare"
    comparison = make_comparison(checked, data, place)
    for splits in comparison.splits.values():
        for note in splits.notes:
            typer.echo(f"note: {note}", err=True)
    opened = Store(store or Path("runs") / "compare" / checked.name)
    opened.check(comparison)
    if report:
        _write_report(comparison, opened)
        return
    count = jobs or _cores()
    if _told(comparison, opened, count, dry_run=dry_run):
        return
    _ask(comparison, opened, count, yes=yes)
    opened.prepare(comparison)
    _run(comparison, opened, _engine(engine, count, place, opened), count)


def _check_ray() -> None:
    import importlib.util

    if importlib.util.find_spec("ray") is None:
        raise TapertuneError("--engine ray needs Ray, which is not installed: pip install ray")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _engine(name: str, jobs: int, scratch: Path, store: Store) -> Engine:
    if name == "ray":
        from ..compare.ray_engine import RayEngine

        return RayEngine(scratch)
    from ..compare.local import LocalEngine

    peaks = [record.peak_bytes for record in store.records().values()]
    return LocalEngine(jobs, scratch, **({"need": max(peaks)} if peaks else {}))


def _hours(comparison: Comparison, store: Store, jobs: int) -> tuple[int, float, bool]:
    """(runs that are left at most, seconds they take, whether that was measured)."""
    from ..compare.driver import Progress
    from ..compare.show import seconds_a_run

    progress = Progress(total=comparison.count(), records=store.records())
    each = seconds_a_run(progress)
    left = max(0, progress.total - sum(r.task in comparison.grid.tasks for r in progress.records.values()))
    return left, left * (each or _GUESS) / jobs, each is not None


def _told(comparison: Comparison, store: Store, jobs: int, *, dry_run: bool) -> bool:
    """Says what is to be run; returns whether that is all."""
    from ..compare.show import hours

    left, seconds, measured = _hours(comparison, store, jobs)
    grid = comparison.grid
    how = "as its runs took so far" if measured else "at a minute a run"
    typer.echo(
        f"{grid.name}: {len(grid.rows)} rows, {len(grid.tasks)} tasks, {len(grid.seeds)} seeds: at most"
        f" {comparison.count():,} runs, {left:,} left, about {hours(seconds)} with {jobs} at once ({how})"
    )
    if dry_run:
        for name, splits in comparison.splits.items():
            rows = ", ".join(f"{count:,} {split}" for split, count in splits.counts.items())
            typer.echo(f"  {name}: {rows}")
        for row in grid.rows:
            typer.echo(f"  {row}: {len(comparison.points[row])} points")
    return dry_run


def _ask(comparison: Comparison, store: Store, jobs: int, *, yes: bool) -> None:
    from ..compare.show import hours

    left, seconds, _ = _hours(comparison, store, jobs)
    if yes or (left <= MANY_RUNS and seconds <= MANY_HOURS * 3600):
        return
    question = f"{left:,} runs, about {hours(seconds)}"
    if not sys.stdin.isatty():
        raise TapertuneError(f"{question}: --yes runs them without asking")
    typer.confirm(f"{question}: run them?", abort=True)


def _run(comparison: Comparison, store: Store, engine: Engine, jobs: int) -> None:
    from ..compare.driver import run_grid
    from ..compare.rule import rule_of
    from ..compare.show import Show

    show = Show(comparison, jobs)
    with show.context():
        progress = run_grid(comparison, store, engine, show, rule_of(comparison) if comparison.grid.auto else None)
    typer.echo(f"{progress.made} runs made; records: {store.folder}")
    _write_report(comparison, store)
    for label, reason in progress.failures.items():
        typer.secho(f"failed: {label}: {reason}", err=True)
    if progress.failures:
        raise typer.Exit(1)


def _write_report(comparison: Comparison, store: Store) -> None:
    from ..compare.report import write_report
    from ..compare.rule import rule_of

    if not store.records():
        raise TapertuneError(f"--store {str(store.folder)!r} has no records yet")
    for path in write_report(comparison, store, store.folder / "report", rule_of(comparison)):
        typer.echo(f"report: {path}")
