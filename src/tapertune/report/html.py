"""The report as one HTML file that needs nothing else: no server, no network, no script or font from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..files import write_text
from .cards import headline
from .charts import charts
from .class_charts import class_charts
from .data import RunData, RunPath, load_runs
from .maps import heatmap_charts
from .tables import comparison_cells, environment, run_labels, settings, subtitle


def write_html(paths: RunPath | Sequence[RunPath], out: RunPath) -> Path:
    """Writes the report of one run, or of several with a comparison first.

    Args:
        paths: run folders.
        out: the HTML file; it is replaced whole or not at all.

    Raises:
        TapertuneError: a run cannot be read, or the file not be written.
    """
    return write_text(out, render_html(load_runs(paths)), parents=True)


def render_html(runs: Sequence[RunData]) -> str:
    """The report as text.

    Args:
        runs: at least one.
    """
    loader = PackageLoader("tapertune.report")
    page = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    sections = [
        _section(index, run, label) for index, (run, label) in enumerate(zip(runs, run_labels(runs), strict=True))
    ]
    several = len(runs) > 1
    return page.get_template("report.html.j2").render(
        title="Comparison of " + ", ".join(run_labels(runs)) if several else runs[0].name,
        sections=sections,
        comparison=comparison_cells(runs) if several else [],
        panels=charts(runs) if several else [],
    )


def _section(index: int, run: RunData, label: str) -> dict[str, Any]:
    return {
        "id": f"run-{index + 1}",
        "colour": index % 8,
        "label": label,
        "subtitle": subtitle(run),
        "status": run.status,
        "notice": run.notice,
        "cards": headline(run),
        "heatmaps": [*heatmap_charts(run), *class_charts(run)],
        "panels": charts([run]),
        "settings": settings(run),
        "environment": environment(run),
    }
