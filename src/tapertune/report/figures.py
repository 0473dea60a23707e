"""Figures for papers, drawn with matplotlib, which is imported only when one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import TapertuneError, unknown
from ..files import whole_file
from .colours import blues, ink
from .data import RunData, RunPath
from .heatmap import Grid, Heatmap, short_label
from .numbers import count
from .svg import nice_ticks
from .tables import run_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

FORMATS = (".pdf", ".png", ".svg")
HEATMAPS = ("freezing", "ranks")
KINDS = ("heatmap", *HEATMAPS, "curves", "confusion")
_DPI = 100
_WIDTH, _HEIGHT = 15.52, 6.03


def save_figure(runs: Sequence[RunData], path: RunPath, kind: str | None = None) -> Path:
    """Draws a figure of one run, or curves of several.

    Args:
        runs: one or more.
        path: a ``.png``, ``.svg`` or ``.pdf`` file.
        kind: ``heatmap`` (when matrices froze, which ranks are left: what the run has), one of the two alone
            (``freezing``, ``ranks``), ``confusion`` (which class was taken for which), or ``curves`` (parameters that
            train over the steps); by default curves of several runs and the heatmap of one.

    Raises:
        TapertuneError: another kind, a heatmap of several runs, or what ``save_heatmap`` and ``save_curve`` raise.
    """
    kind = kind or ("heatmap" if len(runs) == 1 else "curves")
    if kind not in KINDS:
        raise unknown("kind of a figure", kind, KINDS)
    if kind == "curves":
        return save_curve(runs, path)
    if len(runs) != 1:
        raise TapertuneError(f"kind {kind} is of one run, not of {len(runs)}: curves compares several")
    if kind == "confusion":
        return save_confusion(runs[0], path)
    return save_heatmap(runs[0], path, None if kind == "heatmap" else kind)


def save_heatmap(run: RunData, path: RunPath, kind: str | None = None) -> Path:
    """Draws which matrix froze when, or which module kept which rank, in the proportions of the AFLoRA paper's figure
    (1552 x 603 pixels for 12 layers).

    Args:
        run: a run of a method that freezes or prunes.
        path: a ``.png``, ``.svg`` or ``.pdf`` file.
        kind: ``freezing`` or ``ranks``; None for what the run has, one above the other where it has both.

    Raises:
        TapertuneError: the run has no such heatmap, another kind or suffix, matplotlib is missing, or the file cannot
            be written.
    """
    if kind is not None and kind not in HEATMAPS:
        raise unknown("kind of a heatmap", kind, HEATMAPS)
    freezing = run.heatmap if kind != "ranks" and run.heatmap and run.heatmap.steps else None
    ranks = run.ranks if kind != "freezing" else None
    grids = [grid for grid in (freezing, ranks) if grid is not None]
    if not grids:
        what = {"freezing": "no matrix froze", "ranks": "no rank could be pruned"}
        missing = what[kind] if kind else " and ".join(what.values())
        raise TapertuneError(
            f"{run.name}: {missing} in this run, so there is no heatmap to draw; kind curves fits any run"
        )
    # Columns and rows never get narrower than can be read.
    width = max(_WIDTH, *(3 + 0.3 * len(grid.layers) for grid in grids))
    heights = [max(_HEIGHT, 1.5 + 0.5 * len(grid.rows), width / 4) for grid in grids]
    figure = _figure(path, width, sum(heights))
    places = figure.subplots(len(grids), squeeze=False, height_ratios=heights)[:, 0]
    for place, grid in zip(places, grids, strict=True):
        if isinstance(grid, Heatmap):
            assert grid.steps is not None
            _draw_heatmap(figure, place, grid, grid.steps)
        else:
            _draw_heatmap(figure, place, grid, (0, max(grid.largest, 1)), ranks=True)
    return _save(figure, path)


def save_confusion(run: RunData, path: RunPath) -> Path:
    """Draws the confusion matrix of a run's last evaluation: counts, and shares of a class as colours.

    Raises:
        TapertuneError: the run has none, another suffix, matplotlib is missing, or the file cannot be written.
    """
    classes = run.classes
    if classes is None or classes.confusion is None:
        raise TapertuneError(f"{run.name}: the record holds no confusion matrix; kind curves fits any run")
    names = [short_label(row.name) for row in classes.rows]
    size = max(4.5, 1.5 + 0.5 * len(names))
    figure = _figure(path, size + 1, size)
    axes: Axes = figure.add_subplot()
    shares = [[count / max(1, sum(row)) for count in row] for row in classes.confusion]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(classes.confusion):
        for j, value in enumerate(row):
            axes.text(j, i, f"{value:,}", ha="center", va="center", color=ink(blues(shares[i][j])))
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("class")
    return _save(figure, path)


def save_curve(runs: RunData | Sequence[RunData], path: RunPath) -> Path:
    """Draws the adapter's trainable parameters over the steps of one or several runs, with their averages dashed.

    Args:
        runs: one run, or several to compare.
        path: a ``.png``, ``.svg`` or ``.pdf`` file.

    Raises:
        TapertuneError: no run, another suffix, matplotlib is missing, or the file cannot be written.
    """
    several = [runs] if isinstance(runs, RunData) else list(runs)
    if not several:
        raise TapertuneError("no run to draw")
    figure = _figure(path, 8.0, 4.5)
    axes: Axes = figure.add_subplot()
    for run, label in zip(several, run_labels(several), strict=True):
        curve = run.curve
        edges = [*curve.steps, max(curve.length, curve.steps[-1])]
        values = [*curve.values, curve.end]
        [line] = axes.plot(edges, values, drawstyle="steps-post", linewidth=2, label=label)
        if len(curve.values) > 1:
            name = f"{label}, average {count(curve.average)}"
            axes.plot([0, curve.length], [curve.average] * 2, "--", color=line.get_color(), linewidth=1.2, label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("trainable parameters")
    axes.set_xlim(0, max(1, *(run.curve.length for run in several)))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: count(value))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return _save(figure, path)


def _figure(path: RunPath, width: float, height: float) -> Figure:
    suffix = Path(path).suffix
    if suffix.lower() not in FORMATS:
        raise unknown("format of a figure", suffix, FORMATS)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TapertuneError("figures need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def _draw_heatmap(figure: Figure, axes: Axes, grid: Grid, scale: tuple[int, int], *, ranks: bool = False) -> None:
    import numpy

    low, high = scale
    cells = [[value or numpy.nan if ranks or value is None else value for value in row] for row in grid.values]
    font = 22 if len(grid.rows) <= 12 and len(grid.layers) <= 32 else 17
    # Without a span there is no scale: one colour in the middle of the map, and a bar with one tick.
    span = (low, high) if high > low else (low - 1, high + 1)
    image = axes.imshow(numpy.ma.masked_invalid(cells), cmap="Blues", aspect="auto", vmin=span[0], vmax=span[1])
    # What never froze, or has no rank left, is hatched; where there is no matrix, nothing is drawn.
    for row, names in enumerate(grid.names):
        for column, name in enumerate(names):
            value = grid.values[row][column]
            if name is not None and (value is None or (ranks and not value)):
                axes.add_patch(_hatched((column - 0.5, row - 0.5), 1, 1))
            elif ranks and value and len(grid.layers) <= 32:
                colour = ink(blues((value - low) / (high - low)))
                axes.text(column, row, str(value), ha="center", va="center", fontsize=font - 6, color=colour)
    layers = ["\N{EN DASH}" if layer is None else str(layer) for layer in grid.layers]
    every = max(1, round(len(layers) / 32))
    axes.set_xticks(range(0, len(layers), every), layers[::every], fontsize=font)
    axes.set_yticks(range(len(grid.rows)), [short_label(row) for row in grid.rows], fontsize=font)
    axes.set_xlabel("layer", fontsize=font)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _draw_bar(figure, axes, image, nice_ticks(low, high, 6 if ranks else 4), font)


def _draw_bar(figure: Figure, axes: Axes, image: AxesImage, ticks: Sequence[float], font: int) -> None:
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=14)
    bar.set_ticks([tick for tick in ticks if tick == int(tick)])
    bar.ax.tick_params(labelsize=font)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


def _hatched(corner: tuple[float, float], width: float, height: float):
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, facecolor="none", edgecolor="0.6", hatch="///", linewidth=0)


def _save(figure: Figure, path: RunPath) -> Path:
    import matplotlib

    suffix = Path(path).suffix.lower()
    # Without dates and random identifiers, the same run gives the same file.
    undated = {".png": None, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[suffix]

    with whole_file(path, parents=True) as temporary, matplotlib.rc_context({"svg.hashsalt": "tapertune"}):
        figure.savefig(temporary, format=suffix[1:], metadata=undated)
    return Path(path)
