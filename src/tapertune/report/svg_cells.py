"""A table of coloured cells with named rows and columns, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from .colours import blues, ink
from .heatmap import short_label
from .svg import tag

_HEAD, _GAP, _ROW, _LETTER = 8, 2, 30, 7.6


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell."""

    share: float | None = field(metadata={"help": "from 0 (light) to 1 (dark); None: hatched"})
    text: str = field(metadata={"help": "written in it, where it fits"})
    tip: str = field(metadata={"help": "tooltip"})


def cells_svg(
    row_names: Sequence[str],
    column_names: Sequence[str],
    cells: Sequence[Sequence[Cell]],
    *,
    label: str,
    rows: str,
    columns: str,
) -> Markup:
    """The cells, with names of rows before and of columns, slanted, below them.

    Args:
        row_names, column_names: from the top, from the left.
        cells: [row][column].
        label: what the figure shows, for screen readers.
        rows, columns: what the names are of.
    """
    names = [short_label(name) for name in row_names]
    below = [short_label(name) for name in column_names]
    left = round(max(len(name) for name in (*names, rows, columns)) * _LETTER) + 16
    width = max(34, min(74, (1030 - left) // max(1, len(below))))
    floor = _HEAD + _ROW * len(names)
    depth = round(max(len(name) for name in below) * _LETTER * 0.6) + 26
    texts = [
        tag("text", name, tag("title", full), x=left - 10, y=_middle(i), dy="0.32em", text_anchor="end")
        for i, (name, full) in enumerate(zip(names, row_names, strict=True))
    ]
    if columns:
        texts.append(tag("text", columns, x=left - 10, y=floor + 18, text_anchor="end", class_="unit"))
    drawn = [_drawn(cell, 2 + j * width, i, width) for i, line in enumerate(cells) for j, cell in enumerate(line)]
    drawn += [
        _column(name, full, 2 + (j + 0.5) * width, floor + 14)
        for j, (name, full) in enumerate(zip(below, column_names, strict=True))
    ]
    right = len(below) * width + 4 + depth
    height = floor + depth
    size = {"height": height, "class_": "heat"}
    names_svg = tag("svg", *texts, view_box=f"0 0 {left} {height}", width=left, aria_hidden="true", **size)
    named = {"role": "img", "aria_label": f"{label}, by {rows}"}
    cells_part = tag("svg", *drawn, view_box=f"0 0 {right} {height}", width=right, **named, **size)
    return Markup('<div class="heat-rows">{}</div><div class="heat-cells">{}</div>').format(names_svg, cells_part)


def _middle(row: int) -> float:
    return _HEAD + (row + 0.5) * _ROW - _GAP / 2


def _column(name: str, full: str, x: float, y: float) -> Markup:
    return tag("text", name, tag("title", full), x=x, y=y, text_anchor="start", transform=f"rotate(35 {x:g} {y:g})")


def _drawn(cell: Cell, x: float, row: int, width: int) -> Markup:
    box = {"x": x, "y": _HEAD + row * _ROW, "width": width - _GAP, "height": _ROW - _GAP, "rx": 3}
    if cell.share is None:
        return tag(
            "g", tag("title", cell.tip), tag("rect", **box, class_="never"), tag("rect", **box, fill="url(#hatch)")
        )
    colour = blues(cell.share)
    parts = [tag("title", cell.tip), tag("rect", **box, fill=colour, class_="cell")]
    if width >= len(cell.text) * 8 + 6:
        style = {"dy": "0.34em", "text_anchor": "middle", "style": f"fill:{ink(colour)}"}
        parts.append(tag("text", cell.text, x=x + (width - _GAP) / 2, y=_middle(row), **style))
    return tag("g", *parts, class_="mark")
