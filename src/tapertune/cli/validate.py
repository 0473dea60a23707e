"""``tapertune validate``: are run files right, without running them?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import TapertuneError

if TYPE_CHECKING:
    from ..cost.recipes import Recipe


def validate(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]...", help="Run files (YAML) or recipes. [default: every recipe]"),
    ] = None,
) -> None:
    """Check run files, nothing is trained: keys, values, data files, and whether the adapter fits the model.

    The last needs the model's sizes, which are known for those that recipes use; no weights are read. Of data files the
    first rows are read, and nothing of what is on the hub.
    """
    from ..cost.recipes import check_recipe
    from ..runfile.recipes import recipe_files, run_file

    names = files or list(recipe_files())
    wrong = 0
    for name in names:
        try:
            recipe = check_recipe(run_file(name))
            _check_files(recipe)
            line = _good(recipe)
        except TapertuneError as error:
            wrong += 1
            named = str(error).startswith(name)  # problems with the file itself begin with its name
            typer.echo(str(error) if named else f"{name}: {error}")
        else:
            typer.echo(f"{name}: ok{line}")
    if wrong:
        raise TapertuneError(f"{wrong} of {len(names)} run files cannot be used")


def _check_files(recipe: Recipe) -> None:
    from ..tasks.data import check_files

    task = recipe.settings.task
    check_files(task.declaration(), data=task.data, train=task.train, validation=task.validation, form=task.form)


def _good(recipe: Recipe) -> str:
    shape, steps = recipe.shape, recipe.steps
    if shape is None:
        return f" (the sizes of {recipe.settings.model} are not known, so only keys and values were checked)"
    parts = [f"trains {shape.start:,}" + (f" in {shape.modules} modules" if shape.modules else "")]
    if shape.head:
        parts.append(f"head {shape.head:,}")
    if steps is not None:
        parts.append(f"{steps:,} steps")
    if not _names_data(recipe):
        parts.append("its data are to be named by --data")
    return ", " + ", ".join(parts)


def _names_data(recipe: Recipe) -> bool:
    """Whether a run file says where its rows are, or its task has them on the hub."""
    task = recipe.settings.task
    return any((task.data, task.train, task.validation)) or task.declaration().hub is not None
