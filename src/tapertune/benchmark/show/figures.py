"""The pictures of docs/performance.md, drawn with matplotlib, which is imported only here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import TapertuneError
from ...files import whole_file
from ..full_run import FULL_RUNS
from ..schema import Measurement, Session
from .comparison import COMPARISON, LARGE, SMALL, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_THEIRS, _OURS = "#bdbdbd", "#2171b5"
_HEIGHT = 0.38  # of a bar; two fit a row
_LONGEST = 2.8  # a ratio beyond is cut off there, and written; else nothing could be told of those near 1


def draw_all(session: Session, folder: Path) -> list[Path]:
    """Draws what the session has: ratios, memory, and the curve of each run.

    Raises:
        TapertuneError: matplotlib is missing, or a file cannot be written.
    """
    pictures = []
    if session.measurements:
        pictures.append(_save(_bars(session, "step time, floor = 1", _ratio), folder / "speed.png"))
        pictures.append(_save(_bars(session, "MB saved for backward beyond the floor", _memory), folder / "memory.png"))
    if session.tapers:
        pictures.append(_save(_curves(session), folder / "taper.png"))
    return pictures


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TapertuneError("figures need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), dpi=100, layout="constrained")


# (value, distance to the low end, distance to the high end)
Value = Callable[[Measurement], tuple[float, float, float]]


def _ratio(row: Measurement) -> tuple[float, float, float]:
    spread = row.ratio
    return spread.median, spread.median - spread.low, spread.high - spread.median


def _memory(row: Measurement) -> tuple[float, float, float]:
    return row.saved_bytes_beyond / 2**20, 0.0, 0.0


def _bars(session: Session, label: str, value: Value) -> Figure:
    """A panel for each BERT; a row for each method, what others take above what ours takes."""
    figure = _figure(12, 0.55 * len(COMPARISON) + 1)
    panels: list[Axes] = list(figure.subplots(1, 2, sharey=True))
    for panel, model in zip(panels, (SMALL, LARGE), strict=True):
        for place, row in enumerate(COMPARISON):
            for variant, shift, colour in ((row.theirs, -1, _THEIRS), (row.ours, 1, _OURS)):
                measurement = session.find(model, variant) if variant else None
                if measurement is not None:
                    _bar(panel, place + shift * _HEIGHT / 2, colour, *value(measurement), start=value is _ratio)
            _mark(panel, place, row, model, ratio=value is _ratio)
        if value is _ratio:
            panel.set_xlim(0.95, _LONGEST)
        panel.set_title(model, fontsize=11)
        panel.set_xlabel(label)
        panel.set_yticks(range(len(COMPARISON)), [row.title for row in COMPARISON])
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    _legend(figure)
    return figure


def _bar(panel: Axes, place: float, colour: str, middle: float, low: float, high: float, *, start: bool) -> None:
    begin = 1.0 if start else 0.0
    errors: Any = [[low], [high]] if low or high else None
    panel.barh(place, middle - begin, left=begin, height=_HEIGHT, color=colour, xerr=errors, ecolor="0.3")
    text = f"{middle:.2f}" if start else f"{middle:.0f}"
    end = min(middle + high, _LONGEST) if start else max(middle, 0.0)
    panel.annotate(text, (end, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)


def _mark(panel: Axes, place: float, row: Row, model: str, *, ratio: bool) -> None:
    target = (row.ratio if ratio else row.megabytes).get(model)
    if target is not None:
        panel.plot([target] * 2, [place, place + _HEIGHT], color="black", linewidth=2)


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=_THEIRS, label="PEFT, or the equations as they stand"),
        Patch(color=_OURS, label="tapertune"),
        Line2D([], [], color="black", linewidth=2, label="target"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)


def _curves(session: Session) -> Figure:
    figure = _figure(8, 4.5)
    panel: Axes = figure.add_subplot()
    for run in session.tapers:
        places = [(one.first + one.last) / 2 for one in run.bins]
        middle = [one.ratio.median for one in run.bins]
        [line] = panel.plot(places, middle, marker="o", label=f"{FULL_RUNS[run.subject].what}, {run.model}")
        low, high = [one.ratio.low for one in run.bins], [one.ratio.high for one in run.bins]
        panel.fill_between(places, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    panel.axhline(1.0, color="0.5", linestyle="--", linewidth=1)
    panel.set_xlabel("optimizer step")
    panel.set_ylabel("step time, floor = 1")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    with whole_file(path, parents=True) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})  # undated: same figures, same file
    return path
