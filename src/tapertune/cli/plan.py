"""``tapertune plan``: what runs will take, and the settings that keep to a budget."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import TapertuneError, unknown

if TYPE_CHECKING:
    from ..compare.ranking import Measured
    from ..cost.budget import Budget
    from ..cost.plan import Estimate
    from ..cost.plan_search import Fit
    from ..cost.planned import Reads
    from ..runfile.settings import RunSettings

DEVICES = ("cpu", "cuda")
STUDY = Path("benchmarks/study/records")


def plan(
    context: typer.Context,
    config: Annotated[
        str | None, typer.Argument(metavar="FILE", help="Run file (YAML) or recipe.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A model whose shapes are built in, a folder, or a name on the hub.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="The task. [default: the file's, else mnli]")] = None,
    method: Annotated[
        str | None, typer.Option(help="Methods, comma-separated. [default: all, and full and head]")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="At most so much memory, such as 24GiB or 24GB.")] = None,
    parameters: Annotated[
        str | None, typer.Option(help="At most so many that train in the adapter on average, such as 0.2M.")
    ] = None,
    minutes: Annotated[
        str | None, typer.Option(help="At most so many minutes of training and evaluating, or 2h.")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Training rows. [default: the task's]")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Mean tokens of a row. [default: the task's]")] = None,
    longest: Annotated[
        int | None, typer.Option(min=1, help="Tokens of the longest row. [default: task.max_length]")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. [default: cuda where there is one]")] = None,
    store: Annotated[
        Path | None, typer.Option(metavar="DIR", help=f"A comparison's store to rank by. [default: {STUDY}, if there]")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the first one's run file there.")] = None,
    no_times: Annotated[bool, typer.Option("--no-times", help="Say no times: nothing is timed.")] = False,
) -> None:
    """Say what runs will take, from shapes alone: parameters, memory, operations, time; and what fits a budget.

    Nothing is downloaded but a small config, and no weights are made. Step times rest on five seconds of timing the
    frozen model on this machine, which are kept. Any setting of a run file is an option by its dotted name.
    """  # fmt: skip
    from ..cost.budget import Budget, read_count, read_memory, read_minutes

    if device is not None and device not in DEVICES:
        raise unknown("--device", device, DEVICES)
    budget = Budget(
        memory=None if memory is None else read_memory(memory),
        parameters=None if parameters is None else read_count(parameters),
        minutes=None if minutes is None else read_minutes(minutes),
    )
    if no_times and budget.minutes is not None:
        raise TapertuneError("--no-times and --minutes exclude each other")
    raw = _raw(context, config, model, task)
    asked = " ".join(
        f"--{k} {v}" for k, v in (("memory", memory), ("parameters", parameters), ("minutes", minutes)) if v
    )
    job = _Job(raw, budget, rows, tokens, longest, device or _device(), timed=not no_times)
    scores = _scores(store, job.task)
    fits = [job.fit(name) for name in _methods(method, raw, given=config is not None)]
    if budget.given:
        from ..cost.plan_search import check_fits

        fits = check_fits(fits, asked)
    fits = _ranked(fits, scores)
    _show(fits, scores, store, job)
    _write(fits[0], out, shown=budget.given)


def _raw(context: typer.Context, config: str | None, model: str | None, task: str | None) -> dict[str, Any]:
    from ..runfile.recipes import run_file
    from ..runfile.settings import with_overrides
    from ..runfile.yamlfile import parse_overrides, read

    dotted, files = parse_overrides([*([] if config is None else [config]), *context.args])
    if len(files) > 1:
        raise TapertuneError(f"one run file, not {len(files)}: {', '.join(files)}")
    given: dict[str, Any] = {k: v for k, v in {"model": model, "task.name": task}.items() if v is not None}
    raw = with_overrides(read(run_file(files[0])) if files else {}, {**given, **dotted})
    if "model" not in raw:
        raise TapertuneError("plan needs a run file, or --model: a name such as minilm, or a folder")
    raw.setdefault("task", {"name": "mnli"})
    raw.setdefault("method", {"name": "lora"})
    return raw


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _methods(names: str | None, raw: dict[str, Any], *, given: bool) -> list[str]:
    from ..methods import METHODS
    from ..runfile.settings import BASELINES

    known = [*METHODS, *BASELINES]
    if names is None:
        return known
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            raise unknown("method", name, known)
    return wanted or known


class _Job:
    """What all methods of a plan share."""

    def __init__(
        self, raw: dict[str, Any], budget: Budget, rows: int | None, tokens: int | None, longest: int | None,
        device: str, *, timed: bool,
    ) -> None:  # fmt: skip
        from ..runfile.settings import check_settings
        from ..train import forecast, runner  # what a run's process holds before its model is what this one does

        assert runner
        self.process = forecast.resident_bytes()
        self.raw, self.budget, self.device, self.timed = raw, budget, device, timed
        self._numbers = rows, tokens, longest
        self.task = check_settings(raw).task.name

    def reads(self, settings: RunSettings) -> Reads:
        import dataclasses

        from ..cost.plan import reads_of

        found = reads_of(settings)
        rows, tokens, longest = self._numbers
        longest = longest or max(found.longest, tokens or 0)
        return dataclasses.replace(
            found, rows=rows or found.rows, mean=min(tokens or found.mean, longest), longest=longest
        )

    def fit(self, method: str) -> Fit:
        from ..cost.plan import plan_run, trained_over_time
        from ..cost.plan_search import fit
        from ..cost.planned import config_of

        def estimated(settings: RunSettings, *, timed: bool) -> Estimate:
            reads = self.reads(settings)
            return plan_run(settings, reads=reads, device=self.device, process=self.process, timed=timed)

        return fit(
            self.raw,
            method,
            self.budget,
            functools.partial(estimated, timed=self.timed),
            lambda settings: trained_over_time(settings, config_of(settings), self.reads(settings))[1],
            functools.partial(estimated, timed=False),
        )


def _scores(store: Path | None, task: str) -> dict[str, Measured]:
    from ..compare.ranking import measured_scores

    if store is None and not STUDY.is_dir():
        return {}
    return measured_scores(store or STUDY, task)


def _ranked(fits: list[Fit], scores: dict[str, Measured]) -> list[Fit]:
    """Those that were measured, the best first; then the others, by what trains."""

    def place(each: Fit) -> tuple[float, float]:
        found = scores.get(each.estimate.settings.method.name)
        return (-found.value, 0.0) if found else (float("inf"), each.estimate.parameters.average)

    return sorted(fits, key=place)


def _show(fits: list[Fit], scores: dict[str, Measured], store: Path | None, job: _Job) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..cost.budget import in_words
    from ..report.numbers import duration

    lora = next((f.estimate for f in fits if f.estimate.settings.method.name == "lora"), None)
    first = fits[0].estimate
    reads = first.reads
    known = "an unknown number of" if reads.rows is None else f"{reads.rows:,}"
    typer.echo(
        f"{first.settings.model} on {first.settings.task.name}: {known} rows of {reads.mean:.0f} tokens, "
        f"{reads.longest} at most; on {job.device}"
    )
    table = Table(box=None, pad_edge=False)
    columns = ("method", "parameters", "adapter", "optimizer", "activations", "memory", "TFLOP a step", "step",
               "/ LoRA", "in all", "measured")  # fmt: skip
    for name in columns:
        table.add_column(name, no_wrap=True)
    for each in fits:
        e = each.estimate
        name, time = e.settings.method.name, e.time
        found = scores.get(name)
        ratio = time.step / lora.time.step if time and lora is not None and lora.time else None
        table.add_row(
            name, e.parameters.spelled(), in_words(e.adapter_bytes), in_words(e.memory.optimizer),
            in_words(e.memory.held), in_words(e.memory.total), f"{e.step_flops / 1e12:.3g}",
            "-" if time is None else f"{time.step:.3g} s", "-" if ratio is None else f"{ratio:.2f}",
            "-" if time is None or time.minutes is None else duration(60 * time.minutes),
            "-" if found is None else f"{found.value:.4f} ({found.runs} runs)",
        )  # fmt: skip
    console = Console()
    (console if console.is_terminal else Console(width=180)).print(table)
    for each in fits:
        if each.changes:
            typer.echo(f"{each.described()}")
    _say_measured(fits, scores, store, job.task)
    if any(e.estimate.time is None for e in fits) and job.timed:
        typer.echo("no times: the device is not here, or a few layers of this model do not fit into its memory")


def _say_measured(fits: list[Fit], scores: dict[str, Measured], store: Path | None, task: str) -> None:
    missing = [f.estimate.settings.method.name for f in fits if f.estimate.settings.method.name not in scores]
    if not scores:
        typer.echo(
            "ranked by parameters: nothing was measured that could rank these (--store names a comparison's records)"
        )
        return
    tasks = next(iter(scores.values())).tasks
    other = "" if tasks == (task,) else f" (of {task} nothing was measured)"
    typer.echo(f"ranked by what {store or STUDY} measured on {', '.join(tasks)}{other}")
    if missing:
        typer.echo(f"not measured, and so behind, by parameters: {', '.join(missing)}")


def _write(best: Fit, out: Path | None, *, shown: bool) -> None:
    import yaml

    if out is None and not shown:
        return
    text = yaml.safe_dump(best.raw, sort_keys=False)
    if out is None:
        typer.echo(f"\n{text}", nl=False)
        return
    from ..files import write_text

    write_text(out, text, parents=True)
    typer.echo(f"run file: {out}\ntrain it: tapertune train {out}")
