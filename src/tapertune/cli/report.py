"""``tapertune report``: what a run came to, from its folder alone."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import TapertuneError, unknown


class Format(str, Enum):
    """Of the report: pages, or a figure."""

    html = "html"
    md = "md"
    png = "png"
    svg = "svg"
    pdf = "pdf"


_PAGES = (Format.html, Format.md)


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN", help="Run folders, or those of a Trainer with TapertuneCallback.", show_default=False
        ),
    ],
    format: Annotated[
        Format | None, typer.Option(help="By default as --out ends, else html. png, svg and pdf: a figure.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="Of the figure: heatmap, freezing, ranks, confusion or curves. [default: heatmap of one run, curves of"
            " several]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The file. By default in the run's folder; for several runs, comparison.* here."),
    ] = None,
) -> None:
    """Write the report of a run, or compare several: HTML, Markdown or a figure."""
    from ..lock import sweep
    from ..report import load_runs, save_figure, write_html, write_markdown

    chosen = _format(format, out, kind)
    for folder in runs:
        if (folder / "run.json").is_file():
            sweep(folder)
    target = out or _default(runs, chosen, kind)
    if chosen is Format.html:
        written = write_html(runs, target)
    elif chosen is Format.md:
        written = write_markdown(runs, target)
    else:
        written = save_figure(load_runs(runs), target, kind)
    typer.echo(str(written))


def _format(format: Format | None, out: Path | None, kind: str | None) -> Format:
    chosen = _named(format, out)
    if kind is not None and chosen in _PAGES:
        raise TapertuneError(f"--kind is of a figure, and the report is {chosen.value}: add --format png, svg or pdf")
    return chosen


def _named(format: Format | None, out: Path | None) -> Format:
    if out is None:
        return format or Format.html
    named = {"htm": "html", "markdown": "md"}.get(suffix := out.suffix.lower().lstrip("."), suffix)
    if named not in Format.__members__:
        raise unknown("suffix of --out", out.suffix, [f".{name}" for name in Format.__members__])
    if format is not None and format.value != named:
        raise TapertuneError(f"--format is {format.value}, but --out {str(out)!r} ends in {out.suffix}")
    return Format(named)


def _default(runs: list[Path], format: Format, kind: str | None) -> Path:
    if len(runs) > 1:
        return Path(f"comparison.{format.value}")
    return runs[0] / f"{'report' if format in _PAGES else kind or 'heatmap'}.{format.value}"
