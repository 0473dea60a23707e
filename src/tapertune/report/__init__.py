"""Reports of runs, from their folders alone: HTML, Markdown, figures, and rows for a table. Imports no torch."""

from .curves import Curve, Evaluation, Point
from .data import RunData, Score, load_run, load_runs
from .figures import save_curve, save_figure, save_heatmap
from .heatmap import Factor, Heatmap
from .html import render_html, write_html
from .markdown import render_markdown, write_markdown
from .tables import comparison_rows

__all__ = [
    "Curve",
    "Evaluation",
    "Factor",
    "Heatmap",
    "Point",
    "RunData",
    "Score",
    "comparison_rows",
    "load_run",
    "load_runs",
    "render_html",
    "render_markdown",
    "save_curve",
    "save_figure",
    "save_heatmap",
    "write_html",
    "write_markdown",
]
