"""What a recipe trains and takes: a run file held against the schema and, where its sizes are known, the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..runfile.settings import RunSettings, load_settings
from . import estimated
from .shapes import Shape, run_shape


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A checked run file.

    Attributes:
        name: what ``tapertune train`` is given.
        settings: the file's.
        shape: what it trains, or None for a model of unknown sizes.
        steps: optimizer steps, or None where only the data can tell.
        flops: operations of the whole training, or None likewise.
    """

    name: str
    settings: RunSettings
    shape: Shape | None
    steps: int | None
    flops: float | None


def check_recipe(path: Path, name: str = "") -> Recipe:
    """Reads a run file and holds it against the schema and, where its sizes are known, against the model.

    Raises:
        TapertuneError: a key or value is wrong, or the adapter or its plan does not fit the model or the run's length.
    """
    settings = load_settings(path)
    shape = run_shape(settings)
    if shape is not None:
        estimated.check_plans(settings, shape)
    return Recipe(
        name=name or settings.name,
        settings=settings,
        shape=shape,
        steps=estimated.steps(settings),
        flops=None if shape is None else estimated.flops(settings, shape),
    )
