"""The report of a grid: what its store holds as tables and charts, in HTML and in Markdown with pictures for papers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import TapertuneError
from ..files import write_text
from ..report.data import load_run
from ..report.drawing import Chart
from ..report.grid_page import Section, grid_html, grid_markdown, write_pictures
from ..report.maps import heatmap_charts
from ..report.numbers import count, duration, size
from .auto import AutoResult, RateOf, auto_result
from .curves import rate_chart
from .fronts import cost_bars, pareto_charts
from .jobs import Comparison
from .points import short
from .record import RunRecord
from .selection import Cell, Records, cell_of
from .statistics import Summary, main_machine, summarise, wins
from .store import Store


def write_report(comparison: Comparison, store: Store, folder: Path, rule: RateOf | None = None) -> list[Path]:
    """Writes ``report.html``, ``report.md`` and a picture for each chart.

    Args:
        comparison: the grid.
        store: its store.
        folder: where the report goes.
        rule: marks a learning rate in each curve.

    Returns:
        The two pages.
    """
    title, sections = report_sections(comparison, store, rule)
    pictures = write_pictures(folder, sections)
    html = write_text(folder / "report.html", grid_html(title, sections), parents=True)
    return [html, write_text(folder / "report.md", grid_markdown(title, sections, pictures), parents=True)]


def report_sections(comparison: Comparison, store: Store, rule: RateOf | None = None) -> tuple[str, list[Section]]:
    """(title, sections): the result over all tasks, each task by itself, and how the runs were made."""
    records = store.records()
    summaries = summarise(comparison, records)
    sections = [_overview(comparison, summaries)]
    for task in comparison.grid.tasks:
        cells = [cell_of(comparison, records, row, task) for row in comparison.grid.rows_on(task)]
        here = [summary for summary in summaries if summary.task == task]
        if any(record is not None for cell in cells for _, record in cell.screened):
            found = [auto_result(comparison, records, cell, rule) for cell in cells]
            sections.append(_task_section(comparison, task, cells, here, store, rule))
            sections += _auto_section(task, cells, found)
    sections.append(_made(comparison, records))
    return comparison.grid.name, sections


def score_text(summary: Summary) -> str:
    """A score with its interval, in hundredths."""
    low, high = summary.interval
    return f"{100 * summary.mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _overview(comparison: Comparison, summaries: Sequence[Summary]) -> Section:
    grid = comparison.grid
    by_cell = {(summary.row, summary.task): summary for summary in summaries}
    counted = wins(summaries)
    rows = []
    for row in grid.rows:
        found = [by_cell.get((row, task)) for task in grid.tasks]
        if not any(found):
            continue
        cells = ["" if each is None else score_text(each) + _sign(each) for each in found]
        better, tie, worse = counted.get(row, (0, 0, 0))
        against = "reference" if row == grid.reference else f"{better} / {tie} / {worse}" if row in counted else ""
        rows.append([row, *cells, against])
    notes = [
        "Test scores times 100, at the point that the selection scores chose, with 95% intervals over seeds and test"
        f" rows. ↑ and ↓: better and worse than {grid.reference}, where a paired interval leaves out zero and a paired"
        " test, adjusted by Holm over the rows of the task, agrees; without an arrow these runs show no difference.",
    ]
    partly = [f"{s.row} on {s.task}" for s in summaries if not s.complete]
    if partly:
        notes.append(f"Not all runs are made yet of: {', '.join(partly)}.")
    return Section(
        title="Scores", header=["row", *grid.tasks, f"better / tie / worse than {grid.reference}"], rows=rows,
        notes=notes,
    )  # fmt: skip


def _sign(summary: Summary) -> str:
    verdict = "tie" if summary.difference is None else summary.difference.verdict
    return {"better": " ↑", "worse": " ↓", "tie": ""}[verdict]


def _task_section(
    comparison: Comparison,
    task: str,
    cells: Sequence[Cell],
    summaries: Sequence[Summary],
    store: Store,
    rule: RateOf | None,
) -> Section:
    reference = comparison.grid.reference
    header = ["row", "score", "chosen", "seeds", f"difference from {reference} (p)", "parameters", "TFLOP", "time",
              "memory", "adapter"]  # fmt: skip
    missing = [cell for cell in cells if cell.row not in {summary.row for summary in summaries}]
    rows = [_task_row(summary, reference) for summary in summaries]
    rows += [[cell.row, _state(cell), *[""] * (len(header) - 2)] for cell in missing]
    notes = ["Parameters train in the adapter at the start, averaged over training, at the end. p is adjusted by Holm."]
    diverged = [f"{cell.row} at {_diverged(cell)}" for cell in cells if _diverged(cell)]
    if diverged:
        notes.append(f"Diverged with the first seed: {'; '.join(diverged)}.")
    charts = [*rate_chart(task, cells, rule), *pareto_charts(task, summaries), *cost_bars(task, summaries)]
    for cell in cells:
        try:
            charts += _maps(cell, store)
        except TapertuneError as error:
            notes.append(f"What was frozen and pruned in {cell.row} cannot be drawn: {error}.")
    return Section(title=task, header=header, rows=rows, notes=notes, charts=charts)


def _auto_section(task: str, cells: Sequence[Cell], found: Sequence[AutoResult | None]) -> list[Section]:
    """Each row at the rate of ``learning_rate: auto``, beside its tuned point; none where no such run was made."""
    rows = []
    for cell, result in zip(cells, found, strict=True):
        if result is None:
            continue
        scores = [100 * record.test.value for record in result.runs.values() if record.test is not None]
        gap = result.gap
        apart = (
            "" if gap is None else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * v for v in (gap.value, *gap.interval)))
        )
        mean = f"{sum(scores) / len(scores):.1f}" if scores else "diverged"
        rows.append([cell.row, short(result.point.rate), mean, f"{len(result.runs)}", apart])
    if not rows:
        return []
    note = "The rule's rate is run beside the tuned ones and never chosen: the last column is what not tuning costs."
    header = ["row", "rate", "score", "seeds", "against the tuned point"]
    return [Section(title=f"{task}: learning_rate: auto", header=header, rows=rows, notes=[note])]


def _task_row(summary: Summary, reference: str) -> list[str]:
    cost, gap = summary.costs, summary.difference
    apart = "reference" if summary.row == reference else ""
    if gap is not None:
        low, high = (100 * limit for limit in gap.interval)
        apart = f"{100 * gap.value:+.1f} [{low:+.1f}, {high:+.1f}] ({gap.p:.2g}): {gap.verdict}"
    counts = count(round(cost.start))
    if cost.start != cost.end:
        counts += f", {count(round(cost.average))}, {count(round(cost.end))}"
    seeds = f"{summary.seeds}" + (f", {summary.diverged} diverged" if summary.diverged else "")
    return [
        summary.row, score_text(summary), summary.point.label.removeprefix("rate "), seeds, apart, counts,
        "" if cost.flops is None else f"{cost.flops / 1e12:.2f}", duration(cost.seconds), size(cost.peak_bytes),
        size(cost.adapter_bytes),
    ]  # fmt: skip


def _state(cell: Cell) -> str:
    done = sum(record is not None for _, record in cell.screened)
    if cell.complete:
        return "no point could be chosen: all diverged, failed or were stopped"
    return f"{done} of {len(cell.screened)} points screened"


def _diverged(cell: Cell) -> str:
    return ", ".join(short(p.rate) for p, record in cell.screened if record is not None and record.test is None)


def _maps(cell: Cell, store: Store) -> list[Chart]:
    """What was frozen and which ranks are left in the chosen point's run with the first seed, where it was kept."""
    if cell.chosen is None:
        return []
    record = cell.chosen[1][0]
    events = store.events(record.digest)
    if events is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "events.jsonl").write_bytes(events)
        block = record.settings.get("method")
        method = block.get("name", record.row) if isinstance(block, dict) else record.row
        fields = {"schema_version": 1, "status": "done", "name": record.row, "method": method, "seed": record.seed}
        write_text(path / "run.json", json.dumps(fields))
        run = load_run(path)
        if run.faults:
            raise TapertuneError(run.faults[0])
        charts = [chart for chart in heatmap_charts(run) if chart.rows]
    if run.heatmap is not None and run.heatmap.steps is None:
        charts = charts[1:]  # nothing froze: an empty map says no more than the table
    title = f"{cell.row} on {cell.task}"
    return [_titled(chart, f"{chart.title}: {title}, seed {record.seed}") for chart in charts]


def _titled(chart: Chart, title: str) -> Chart:
    return Chart(title=title, caption=chart.caption, svg=chart.svg, legend=chart.legend, header=chart.header,
                 rows=chart.rows, bar=chart.bar, unit=chart.unit, hatched=chart.hatched)  # fmt: skip


def _made(comparison: Comparison, records: Records) -> Section:
    """How many runs there are, with what they were made, and how long they took."""
    mine: dict[str, RunRecord] = {}
    for task, row in comparison.cells():
        cell = cell_of(comparison, records, row, task)
        for record in [r for _, r in cell.screened if r is not None] + [r for _, f in cell.runs for r in f.values()]:
            mine[record.digest] = record
    made = list(mine.values())
    stopped = sum(record.stopped is not None for record in made)
    machines = sorted({record.machine.label for record in made})
    versions = sorted({", ".join(f"{name} {v}" for name, v in r.versions.items()) for r in made})
    commits = sorted({str(record.commit)[:12] for record in made if record.commit})
    hours = sum(record.cpu_seconds for record in made) / 3600
    rows = [
        ["runs", f"{len(made)} of at most {comparison.count()}" + (f"; {stopped} ended early" if stopped else "")],
        ["processor time", f"{hours:.1f} hours"],
        ["machines", "; ".join(machines)],
        ["times and memory are of", main_machine(made)],
        ["versions", "; ".join(versions)],
        ["commits", ", ".join(commits)],
        ["rows", "; ".join(f"{task}: {_sizes(splits.counts)}" for task, splits in comparison.splits.items())],
    ]  # fmt: skip
    return Section(title="How it was made", header=["", ""], rows=rows)


def _sizes(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{rows:,} {split}" for split, rows in counts.items())
