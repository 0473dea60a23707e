"""A page of tables and charts, as HTML that needs nothing else, as Markdown with its pictures beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..files import write_text
from .drawing import Chart
from .svg import tag

_COLOURS = ("#1f6fc4", "#c2570c", "#12805c", "#9135a8", "#c02d4e", "#6c6a00", "#0b7d93", "#5a6472")
_STYLE = (  # of pictures that stand alone: colours as such, as most drawing programs know no CSS variables
    "text{fill:#566373;font:13px system-ui,sans-serif}.unit{font-style:italic}.grid{stroke:#e6eaef}"
    ".axis{stroke:#9aa5b1}.line{fill:none;stroke-width:2.2}.dotted .line{stroke-dasharray:1 5}"
    ".dashed .line{stroke-width:1.6;stroke-dasharray:6 5}.dot{fill:#fff;stroke-width:2}.hit{fill:none}"
    + "".join(f".c{number} .line,.c{number} .dot{{stroke:{colour}}}" for number, colour in enumerate(_COLOURS))
)
_ENTRY, _ENTRIES, _ROW = 180, 3, 20  # a legend's columns and rows, in the units of a chart


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page."""

    title: str = field(metadata={"help": "heading"})
    header: Sequence[str] = field(default=(), metadata={"help": "columns of its table"})
    rows: Sequence[Sequence[str]] = field(default=(), metadata={"help": "its table"})
    notes: Sequence[str] = field(default=(), metadata={"help": "what to know when reading it"})
    charts: Sequence[Chart] = field(default=(), metadata={"help": "its charts"})


def grid_html(title: str, sections: Sequence[Section]) -> str:
    """The page as HTML."""
    loader = PackageLoader("tapertune.report")
    page = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return page.get_template("grid.html.j2").render(title=title, sections=sections)


def grid_markdown(title: str, sections: Sequence[Section], pictures: dict[str, str]) -> str:
    """The page as Markdown.

    Args:
        title: heading.
        sections: its parts.
        pictures: file of each chart by its title; charts without one are left out.
    """
    parts = [f"# {title}\n"]
    for section in sections:
        parts.append(f"## {section.title}\n")
        if section.rows:
            parts.append(markdown_table(section.header, section.rows))
        parts += [f"{note}\n" for note in section.notes]
        for chart in section.charts:
            if chart.title in pictures:
                parts.append(f"![{chart.title}]({pictures[chart.title]})\n")
                parts.append(f"{chart.title}: {chart.caption}\n" if chart.caption else f"{chart.title}\n")
    return "\n".join(parts)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; a bar in a cell is escaped.

    >>> print(markdown_table(["a", "b"], [["1", "x|y"]]))
    | a | b |
    | --- | --- |
    | 1 | x\\|y |
    <BLANKLINE>
    """
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def write_pictures(folder: Path, sections: Sequence[Section]) -> dict[str, str]:
    """Writes each chart that is one drawing as an SVG file for papers; returns the files' names by chart."""
    names: dict[str, str] = {}
    for chart in (chart for section in sections for chart in section.charts):
        if str(chart.svg).count("<svg") != 1:  # a heatmap is two, beside each other
            continue
        name = re.sub(r"[^a-z0-9]+", "-", chart.title.lower()).strip("-") + ".svg"
        write_text(folder / name, standalone(chart) + "\n", parents=True)
        names[chart.title] = name
    return names


def standalone(chart: Chart) -> str:
    """A chart as an SVG file's content, with its legend below it."""
    head, _, rest = str(chart.svg).partition(">")
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)
    assert size is not None, "charts are drawn from the origin"
    width, height = (float(number) for number in size.groups())
    full = height + _ROW * -(-len(chart.legend) // _ENTRIES)
    entries = [
        _entry(css, label, 12 + _ENTRY * (number % _ENTRIES), height + _ROW * (number // _ENTRIES) + 8)
        for number, (css, label) in enumerate(chart.legend)
    ]
    head = head.replace(size[0], f'viewBox="0 0 {width:g} {full:g}" width="{width:g}" height="{full:g}"')
    body = rest.removesuffix("</svg>").replace('style="fill:var(--c)"', f'fill="{_COLOURS[0]}"')
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{_STYLE}</style>{body}{Markup("").join(entries)}</svg>'


def _entry(css: str, label: str, x: float, y: float) -> Markup:
    line = tag("line", x1=x, x2=x + 22, y1=y, y2=y, class_="line")
    return tag("g", line, tag("text", label, x=x + 30, y=y, dy="0.32em"), class_=css)
