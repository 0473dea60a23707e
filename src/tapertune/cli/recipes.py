"""``tapertune recipes``: the run files that come with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import TapertuneError, unknown

if TYPE_CHECKING:
    from ..cost.recipes import Recipe
    from ..runfile.settings import RunSettings

_TITLES = ("recipe", "method", "model", "task", "trains", "head", "steps", "FLOP")
_WIDTHS = (13, 9, 9, 5)  # of the numbers: ten billion parameters, a hundred million steps
_UNITS = ("", "k", "M", "G", "T", "P", "E", "Z")


def recipes(
    method: Annotated[str | None, typer.Option(help="Those of one method.")] = None,
    task: Annotated[str | None, typer.Option(help="Those for one task.")] = None,
) -> None:
    """List the recipes: method, model, task, what trains, and what it takes.

    FLOP are those of training, without padding and as if nothing froze: an estimate to compare recipes by.
    """
    from ..cost.recipes import check_recipe
    from ..runfile.recipes import recipe_files
    from ..runfile.settings import load_settings

    files = recipe_files()
    texts = {name: _texts(name, load_settings(path)) for name, path in files.items()}
    for value, what, column in ((method, "method", 1), (task, "task", 3)):
        if value is not None and value not in (known := {text[column] for text in texts.values()}):
            raise unknown(f"{what} of a recipe", value, known)
    texts = {n: t for n, t in texts.items() if method in (None, t[1]) and task in (None, t[3])}
    if not texts:
        raise TapertuneError(f"there is no recipe of {method} for {task}")
    rows = [_TITLES[:4], *texts.values()]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    typer.echo(_line(_TITLES, widths))
    for name, text in texts.items():
        # a line at a time: each model is built, without weights, to be counted
        typer.echo(_line((*text, *_numbers(check_recipe(files[name], name))), widths))
    typer.echo("\nOne of them: tapertune train NAME; --data DIR reads local copies of the data")


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    texts = (f"{cell:<{width}}" for cell, width in zip(cells[:4], widths, strict=True))
    numbers = (f"{cell:>{width}}" for cell, width in zip(cells[4:], _WIDTHS, strict=True))
    return "  ".join((*texts, *numbers))


def _texts(name: str, settings: RunSettings) -> tuple[str, ...]:
    return name, settings.method.name, settings.model.rpartition("/")[2], settings.task.name


def _numbers(recipe: Recipe) -> tuple[str, ...]:
    shape = recipe.shape
    return (
        "" if shape is None else f"{shape.start:,}",
        "" if shape is None else f"{shape.head:,}",
        "" if recipe.steps is None else f"{recipe.steps:,}",
        _scaled(recipe.flops),
    )


def _scaled(value: float | None) -> str:
    """Two significant digits with a prefix.

    >>> _scaled(3.14e15), _scaled(4.2e16), _scaled(None)
    ('3.1 P', '42 P', '')
    """
    if value is None:
        return ""
    power = 0
    while value >= 999.5 and power < len(_UNITS) - 1:
        value /= 1000
        power += 1
    return f"{value:.1f} {_UNITS[power]}" if value < 9.95 else f"{value:.0f} {_UNITS[power]}"
