"""Finds the recipes: run files that come with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ..errors import TapertuneError, nearest

_ENDING = ".yaml"
_LAUNCHERS = "distributed/"  # accelerate's files, not runs


def recipe_folder() -> Path:
    """Where the recipes lie."""
    installed = Path(str(resources.files("tapertune"))) / "recipes"
    # In a source tree, and so in an editable installation, they lie at the top.
    return installed if installed.is_dir() else Path(__file__).resolve().parents[3] / "recipes"


def recipe_files() -> dict[str, Path]:
    """Every recipe's file by its name, such as ``aflora/glue-rte``."""
    folder = recipe_folder()
    named = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob(f"*{_ENDING}")}
    return {name: path for name, path in sorted(named.items()) if not name.startswith(_LAUNCHERS)}


def find_recipe(name: str) -> Path:
    """The file of a recipe, named without its ending.

    Raises:
        TapertuneError: there is no such recipe; the message names the nearest.
    """
    files = recipe_files()
    if name not in files:
        guess = nearest(name, files)
        hint = f"did you mean {guess!r}? " if guess else ""
        raise TapertuneError(f"unknown recipe {name!r}: {hint}`tapertune recipes` lists them")
    return files[name]


def run_file(name: str) -> Path:
    """The file that a user names: a path, or a recipe by its name.

    Raises:
        TapertuneError: it is neither; the message names the nearest recipe.
    """
    path = Path(name)
    return path if path.exists() or path.suffix in (_ENDING, ".yml") else find_recipe(name)
