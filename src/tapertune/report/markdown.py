"""The report as Markdown: the same tables, with the heatmaps as tables of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ..files import write_text
from ..markup import escape
from .cards import headline
from .charts import loss_chart, parameter_chart, rank_chart, score_chart
from .class_charts import class_charts
from .data import RunData, RunPath, load_runs
from .drawing import Chart
from .maps import heatmap_charts
from .tables import comparison_rows, environment, run_labels, settings, subtitle

_MOST_COLUMNS = 24


def write_markdown(paths: RunPath | Sequence[RunPath], out: RunPath) -> Path:
    """Writes the report of one run, or of several with a comparison first, as Markdown.

    Args:
        paths: run folders.
        out: the file; it is replaced whole or not at all.

    Raises:
        TapertuneError: a run cannot be read, or the file not be written.
    """
    return write_text(out, render_markdown(load_runs(paths)), parents=True)


def render_markdown(runs: Sequence[RunData]) -> str:
    """The report as text.

    Args:
        runs: at least one.
    """
    parts: list[str] = []
    if len(runs) > 1:
        rows = comparison_rows(runs)
        parts += ["# Comparison", _table(list(rows[0]), [row.values() for row in rows])]
    for run, label in zip(runs, run_labels(runs), strict=True):
        parts += _section(run, label, "#" if len(runs) == 1 else "##")
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(run: RunData, label: str, level: str) -> list[str]:
    parts = [f"{level} {escape(label)}", ", ".join(f"{key} {escape(value)}" for key, value in subtitle(run))]
    if run.notice:
        parts.append(f"> **{escape(run.notice)}**")
    cards = [(card.title, card.value.text, "; ".join(each.text for each in card.details)) for card in headline(run)]
    parts.append(_table(["", "value", ""], cards))
    for heatmap in heatmap_charts(run):
        parts += [f"{level}# {heatmap.title}", escape(heatmap.caption), _heatmap_table(heatmap)]
    for chart in class_charts(run):
        parts += [f"{level}# {escape(chart.title)}", escape(chart.caption), _table(chart.header, chart.rows)]
    for chart in (parameter_chart([run]), rank_chart([run]), loss_chart([run]), score_chart([run])):
        if chart is not None:
            parts += [f"{level}# {escape(chart.title)}", escape(chart.caption), _table(chart.header, chart.rows)]
    for title, pairs in (("Settings", settings(run)), ("Environment", environment(run))):
        if pairs:
            parts += [f"{level}# {title}", _table(["", "value"], pairs)]
    return parts


def _heatmap_table(chart: Chart) -> str:
    """Layers as columns, as in the figure, or as rows where there are too many to read."""
    if len(chart.header) <= _MOST_COLUMNS + 1:
        return _table(chart.header, chart.rows)
    first, *rest = zip(chart.header, *chart.rows, strict=True)
    return _table(["layer", *first[1:]], rest)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [[escape(cell) for cell in line] for line in (header, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
