"""``tapertune recipes``: the run files that come with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import TapertuneError, unknown

if TYPE_CHECKING:
    from ..bench.recipes import Recipe

_UNITS = ("", "k", "M", "G", "T", "P", "E", "Z")


def recipes(
    method: Annotated[str | None, typer.Option(help="Those of one method.")] = None,
    task: Annotated[str | None, typer.Option(help="Those for one task.")] = None,
) -> None:
    """List the recipes: method, model, task, what trains, and what it takes.

    FLOP are those of training, without padding and as if nothing froze: an estimate to compare recipes by.
    """
    from rich.console import Console
    from rich.table import Table

    from ..bench.recipes import check_recipe, recipe_files

    listed = [check_recipe(path, name) for name, path in recipe_files().items()]
    methods, tasks = ({getattr(recipe.settings, what).name for recipe in listed} for what in ("method", "task"))
    if method not in (None, *methods):
        raise unknown("method of a recipe", method, methods)
    if task not in (None, *tasks):
        raise unknown("task of a recipe", task, tasks)
    wanted = (method, task)
    listed = [r for r in listed if all(w in (None, n) for w, n in zip(wanted, _names(r), strict=True))]
    if not listed:
        raise TapertuneError(f"there is no recipe of {method} for {task}")
    table = Table(box=None, pad_edge=False)
    for title in ("recipe", "method", "model", "task"):
        table.add_column(title, no_wrap=True)
    for title in ("trains", "head", "steps", "FLOP"):
        table.add_column(title, justify="right", no_wrap=True)
    for recipe in listed:
        table.add_row(*_cells(recipe))
    console = Console()
    # whole numbers and names in a pipe and a narrow terminal too, which breaks lines by itself
    width = console.measure(table, options=console.options.update(max_width=1000)).maximum
    Console(width=max(console.width, width)).print(table)
    typer.echo("\nOne of them: tapertune train NAME; --data DIR reads local copies of the data")


def _names(recipe: Recipe) -> tuple[str, str]:
    return recipe.settings.method.name, recipe.settings.task.name


def _cells(recipe: Recipe) -> tuple[str, ...]:
    settings, shape = recipe.settings, recipe.shape
    return (
        recipe.name,
        settings.method.name,
        settings.model.rpartition("/")[2],
        settings.task.name,
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
