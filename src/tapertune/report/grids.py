"""Charts of grids of runs: scores over learning rates, scores against costs, and bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from .svg import COLOURS, WIDTH, Line, nice_ticks, tag

_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 14, 42
_BAR, _BAR_GAP, _NAME = 18, 8, 150


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point of a chart that stands out: a ring around it, with a tooltip."""

    x: float = field(metadata={"help": "as the chart's horizontal axis"})
    y: float = field(metadata={"help": "as its vertical axis"})
    tip: str = field(metadata={"help": "tooltip"})
    colour: int = field(default=0, metadata={"help": "number of the colour"})
    cross: bool = field(default=False, metadata={"help": "a cross instead of a ring"})


def log_chart(
    lines: Sequence[Line],
    marks: Sequence[Mark] = (),
    *,
    label: str,
    x_label: str,
    x_text: Callable[[float], str],
    joined: bool = True,
    height: int = 300,
) -> Markup:
    """A chart of lines, or of points alone, over a logarithmic axis.

    Args:
        lines: at least one with a point; x above 0.
        marks: points that stand out.
        label: what the chart shows, for screen readers.
        x_label: unit of the horizontal axis.
        x_text: how a power of ten is written.
        joined: whether points of a line are joined.
        height: in the units of ``WIDTH``.
    """
    points = [point for line in lines for point in line.points] + [(mark.x, mark.y) for mark in marks]
    left, right = (limit(math.log10(x) for x, _ in points) for limit in (min, max))
    pad_x = (right - left) * 0.04 or 0.5
    low, high = (limit(y for _, y in points) for limit in (min, max))
    pad_y = (high - low) * 0.08 or abs(high) * 0.05 or 0.5
    left, right, low, high = left - pad_x, right + pad_x, low - pad_y, high + pad_y

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - left) / (right - left)
        up = (y - low) / (high - low)
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * across, height - _BOTTOM - (height - _TOP - _BOTTOM) * up

    parts = [_axes(left, right, low, high, height, place, x_label, x_text)]
    parts += [_line(line, [place(x, y) for x, y in line.points], joined) for line in lines]
    parts += [_mark(mark, place(mark.x, mark.y)) for mark in marks]
    return tag("svg", *parts, view_box=f"0 0 {WIDTH} {height}", role="img", aria_label=label, class_="chart")


def bars(rows: Sequence[tuple[str, float, str]], *, label: str) -> Markup:
    """Horizontal bars from zero, one a row, each with its name before it and its value behind it.

    Args:
        rows: (name, value of at least 0, the value as text), at least one.
        label: what the bars show, for screen readers.
    """
    most = max(value for _, value, _ in rows) or 1.0
    width = WIDTH - _NAME - 90
    parts: list[Markup] = []
    for number, (name, value, text) in enumerate(rows):
        y = number * (_BAR + _BAR_GAP) + 4
        middle = y + _BAR / 2
        parts.append(tag("text", name, x=_NAME - 8, y=middle, dy="0.32em", text_anchor="end"))
        box = {"x": _NAME, "y": y, "width": max(1.0, width * value / most), "height": _BAR, "rx": 3}
        parts.append(tag("rect", tag("title", f"{name}: {text}"), style="fill:var(--c)", class_="c0", **box))
        parts.append(tag("text", text, x=_NAME + width * value / most + 6, y=middle, dy="0.32em"))
    height = len(rows) * (_BAR + _BAR_GAP) + 8
    return tag("svg", *parts, view_box=f"0 0 {WIDTH} {height}", role="img", aria_label=label, class_="chart")


def _axes(
    left: float,
    right: float,
    low: float,
    high: float,
    height: int,
    place: Callable[[float, float], tuple[float, float]],
    x_label: str,
    x_text: Callable[[float], str],
) -> Markup:
    floor, end = height - _BOTTOM, WIDTH - _RIGHT
    parts: list[Markup] = []
    for value in nice_ticks(low, high):
        _, y = place(10**left, value)
        parts.append(tag("line", x1=_LEFT, x2=end, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", f"{value:.4g}", x=_LEFT - 8, y=y, dy="0.32em", text_anchor="end"))
    for power in range(math.ceil(left), math.floor(right) + 1):
        x, _ = place(10.0**power, low)
        parts.append(tag("line", x1=x, x2=x, y1=floor, y2=floor + 5, class_="axis"))
        if x < end - 90:
            parts.append(tag("text", x_text(10.0**power), x=x, y=floor + 22, text_anchor="middle"))
    parts.append(tag("line", x1=_LEFT, x2=end, y1=floor, y2=floor, class_="axis"))
    parts.append(tag("text", x_label, x=end, y=floor + 22, text_anchor="end", class_="unit"))
    return tag("g", *parts, class_="axes", aria_hidden="true")


def _line(line: Line, points: Sequence[tuple[float, float]], joined: bool) -> Markup:
    shapes: list[Markup] = []
    if joined and len(points) > 1:
        shapes.append(tag("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), class_="line"))
    if line.dots or not joined or len(points) == 1:
        shapes += [tag("circle", cx=x, cy=y, r=3.5, class_="dot") for x, y in points]
    tips = line.tips or [""] * len(points)
    shapes += [
        tag("circle", tag("title", tip), cx=x, cy=y, r=9, class_="hit")
        for (x, y), tip in zip(points, tips, strict=True)
        if tip
    ]
    return tag("g", *shapes, class_=line.css)


def _mark(mark: Mark, place: tuple[float, float]) -> Markup:
    x, y = place
    title = tag("title", mark.tip)
    if mark.cross:
        shape = tag("path", title, d=f"M{x - 6:.1f} {y - 6:.1f}l12 12m0 -12l-12 12", class_="line")
    else:
        shape = tag("circle", title, cx=x, cy=y, r=7, class_="line")
    return tag("g", shape, class_=f"c{mark.colour % COLOURS}")
