"""The learning-rate curves of a task: every row's scores over its rates, with the best and the rule's rate marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..report.drawing import Chart
from ..report.grids import Mark, log_chart
from ..report.svg import Line
from .points import short
from .record import RunRecord
from .selection import Cell
from .statistics import RatePoint, rate_curve, regret_at

_EACH = 8  # lines of a chart, as there are colours


def rate_chart(task: str, cells: Sequence[Cell], rule: Callable[[RunRecord], float | None] | None) -> list[Chart]:
    """Charts of at most eight rows each; none while nothing is known."""
    curves = [(cell, rate_curve(cell)) for cell in cells]
    known = [(cell, curve) for cell, curve in curves if any(point.selection is not None for point in curve)]
    parts = [known[start : start + _EACH] for start in range(0, len(known), _EACH)]
    return [_chart(task, number, len(parts), part, rule) for number, part in enumerate(parts, 1)]


def _chart(
    task: str,
    number: int,
    parts: int,
    curves: Sequence[tuple[Cell, list[RatePoint]]],
    rule: Callable[[RunRecord], float | None] | None,
) -> Chart:
    lines: list[Line] = []
    marks: list[Mark] = []
    rows: list[tuple[str, ...]] = []
    for colour, (cell, curve) in enumerate(curves):
        points = [(p.rate, 100 * p.selection) for p in curve if p.selection is not None]
        tips = [f"{cell.row}: {y:.1f} at {short(x)}" for x, y in points]
        lines.append(Line(label=cell.row, points=points, tips=tips, colour=colour, dots=True))
        best = max(points, key=lambda point: point[1])
        marks.append(Mark(x=best[0], y=best[1], tip=f"{cell.row}: best, at {short(best[0])}", colour=colour))
        rows += [(cell.row, short(p.rate), _text(p.selection), _text(p.test), _text(p.regret)) for p in curve]
        marks += _rule_mark(cell, curve, points, rule, colour)
    ruled = " A cross: the rule's rate." if any(mark.cross for mark in marks) else ""
    title = f"Learning rates on {task}" + (f" ({number} of {parts})" if parts > 1 else "")
    return Chart(
        title=title,
        caption=f"Selection score times 100 with the first seed. A ring: the best rate.{ruled}",
        svg=log_chart(lines, marks, label=title, x_label="learning rate", x_text=short),
        legend=tuple((line.css, line.label) for line in lines),
        header=("row", "rate", "selection", "test", "regret"),
        rows=tuple(rows),
    )


def _rule_mark(
    cell: Cell,
    curve: Sequence[RatePoint],
    points: Sequence[tuple[float, float]],
    rule: Callable[[RunRecord], float | None] | None,
    colour: int,
) -> list[Mark]:
    record = next((record for _, record in cell.screened if record is not None and record.steps is not None), None)
    rate = None if rule is None or record is None else rule(record)
    if rate is None:
        return []
    y = float(np.interp(np.log(rate), [np.log(x) for x, _ in points], [y for _, y in points]))
    regret = regret_at(curve, rate)
    apart = "" if regret is None else f", regret {100 * regret:.1f}"
    return [Mark(x=rate, y=y, tip=f"{cell.row}: the rule's rate, {short(rate)}{apart}", colour=colour, cross=True)]


def _text(value: float | None) -> str:
    return "diverged" if value is None else f"{100 * value:.1f}"
