"""What scores cost: Pareto fronts, and bars of runtime, operations and parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..report.drawing import Chart
from ..report.grids import Mark, bars, log_chart
from ..report.numbers import count, duration, size
from ..report.svg import Line
from .statistics import Costs, Summary, front


@dataclass(frozen=True, kw_only=True)
class _Cost:
    name: str
    value: Callable[[Costs], float | None]
    text: Callable[[float | None], str]


_COSTS = (
    _Cost(name="parameters, averaged over training", value=lambda c: c.average, text=lambda v: count(round(v or 0))),
    _Cost(name="operations", value=lambda c: c.flops, text=lambda v: f"{count(v)}FLOP"),
    _Cost(name="training time", value=lambda c: c.seconds, text=duration),
    _Cost(name="peak memory", value=lambda c: c.peak_bytes, text=size),
    _Cost(name="adapter size", value=lambda c: c.adapter_bytes, text=size),
)
_BARS = ("training time", "operations", "parameters, averaged over training")


def pareto_charts(task: str, summaries: Sequence[Summary]) -> list[Chart]:
    """Score against each cost, with the rows that no other beats in both marked."""
    return [chart for cost in _COSTS if (chart := _pareto(task, summaries, cost)) is not None]


def _known(summaries: Sequence[Summary], cost: _Cost) -> dict[str, tuple[float, float]]:
    """(cost, score times 100) by row, where the cost is known and above zero, as its axis asks."""
    found = {s.row: (cost.value(s.costs), 100 * s.mean) for s in summaries}
    return {row: (value, score) for row, (value, score) in found.items() if value}


def _pareto(task: str, summaries: Sequence[Summary], cost: _Cost) -> Chart | None:
    known = _known(summaries, cost)
    if len(known) < 2:
        return None
    best = front(known)
    lines = [
        Line(label=row, points=[place], tips=[f"{row}: {place[1]:.1f}, {cost.text(place[0])}"], colour=n, dots=True)
        for n, (row, place) in enumerate(known.items())
    ]
    colours = {line.label: line.colour for line in lines}
    marks = [Mark(x=known[row][0], y=known[row][1], tip=f"{row}: on the front", colour=colours[row]) for row in best]
    title = f"Score against {cost.name} on {task}"
    return Chart(
        title=title,
        caption=f"Rings: no other row is as cheap and as good. On the front: {', '.join(best)}.",
        svg=log_chart(lines, marks, label=title, x_label=cost.name, x_text=cost.text, joined=False),
        legend=tuple((line.css, line.label) for line in lines),
        header=("row", cost.name, "score", "front"),
        rows=tuple((row, cost.text(x), f"{y:.1f}", "yes" if row in best else "") for row, (x, y) in known.items()),
    )


def cost_bars(task: str, summaries: Sequence[Summary]) -> list[Chart]:
    """Runtime, operations and parameters of the rows, as in Figure 3 of AFLoRA's paper."""
    charts: list[Chart] = []
    for cost in (each for each in _COSTS if each.name in _BARS):
        values = [(s.row, value) for s in summaries if (value := cost.value(s.costs)) is not None]
        if not values:
            continue
        rows = [(row, value, cost.text(value)) for row, value in values]
        title = f"{cost.name[0].upper()}{cost.name[1:]} on {task}"
        charts.append(Chart(
            title=title, caption="At the chosen point, a mean over seeds.", svg=bars(rows, label=title),
            header=("row", cost.name), rows=tuple((row, text) for row, _, text in rows),
        ))  # fmt: skip
    return charts
