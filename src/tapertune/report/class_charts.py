"""The charts of a report's classes: a table of shares, and the confusion matrix."""

from __future__ import annotations

from markupsafe import Markup

from .classes import Classes, ClassRow
from .data import RunData
from .drawing import Chart
from .heatmap import short_label
from .numbers import MISSING, measure
from .svg_cells import Cell, cells_svg

MOST_DRAWN = 40
"""Classes of a confusion matrix that is drawn; of more, the table alone."""
_SHARES = ("precision", "recall", "F1")


def class_charts(run: RunData) -> list[Chart]:
    """Charts of the classes that a run's evaluation told apart; none where it has none."""
    classes = run.classes
    if classes is None:
        return []
    confusion = _confusion_chart(classes)
    return [_table_chart(classes), *([] if confusion is None else [confusion])]


def _table_chart(classes: Classes) -> Chart:
    cells = [[_share(value, row, name) for name, value in _shares(row)] for row in classes.rows]
    worst = min((row for row in classes.rows if row.f1 is not None), key=lambda row: row.f1 or 0.0, default=None)
    caption = f"The lowest F1 is that of {worst.name}: {measure(worst.f1)}." if worst is not None else ""
    names = [row.name for row in classes.rows]
    header = ("class", *_SHARES, "rows", "predicted", "right")
    rows = tuple(
        (row.name, *(measure(value) for _, value in _shares(row)), *_counts(row.actual, row.predicted, row.right))
        for row in classes.rows
    )
    svg = cells_svg(names, list(_SHARES), cells, label="Precision, recall and F1 by class", rows="class", columns="")
    return Chart(title="Classes", caption=caption, svg=svg, header=header, rows=rows)


def _counts(*counts: int) -> tuple[str, ...]:
    return tuple(f"{count:,}" for count in counts)


def _shares(row: ClassRow) -> list[tuple[str, float | None]]:
    return list(zip(_SHARES, (row.precision, row.recall, row.f1), strict=True))


def _share(value: float | None, row: ClassRow, name: str) -> Cell:
    if value is None:
        return Cell(share=None, text=MISSING, tip=f"{row.name}: {name} is not defined, there are no such rows")
    parts = f"{row.right:,} right, {row.predicted:,} predicted, {row.actual:,} in the data"
    return Cell(share=value, text=f"{value:.2f}", tip=f"{row.name}: {name} {value:.4f}\n{parts}")


def _confusion_chart(classes: Classes) -> Chart | None:
    matrix, names = classes.confusion, [row.name for row in classes.rows]
    if matrix is None:
        return None
    wrong = [
        (count, names[i], names[j]) for i, row in enumerate(matrix) for j, count in enumerate(row) if i != j and count
    ]
    caption = "Rows are the data's classes, columns the predicted ones; colours are shares of a row."
    if wrong:
        count, actual, predicted = max(wrong)
        caption += f" Most often {actual} was taken for {predicted}: {count:,} times."
    drawn = len(names) <= MOST_DRAWN
    cells = [
        [_confused(count, sum(row), names[i], names[j]) for j, count in enumerate(row)] for i, row in enumerate(matrix)
    ]
    svg = (
        cells_svg(names, names, cells, label="Confusion matrix", rows="class", columns="predicted")
        if drawn
        else Markup("")
    )
    rows = tuple((name, *(f"{count:,}" for count in row)) for name, row in zip(names, matrix, strict=True))
    header = ("class", *(short_label(name) for name in names))
    return Chart(title="Which class was taken for which", caption=caption, svg=svg, header=header, rows=rows)


def _confused(count: int, total: int, actual: str, predicted: str) -> Cell:
    share = count / total if total else None
    part = f", {share:.1%} of them" if share is not None else ""
    return Cell(
        share=share, text=f"{count:,}", tip=f"{actual} predicted as {predicted}: {count:,} of {total:,} rows{part}"
    )
