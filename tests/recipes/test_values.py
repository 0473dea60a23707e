"""Values that recipes share, or that none of them may have."""

from __future__ import annotations

import re

import pytest

from tapertune.runfile.recipes import recipe_files
from tapertune.runfile.settings import load_settings
from tapertune.tasks.glue import GLUE

RECIPES = recipe_files()


@pytest.mark.parametrize("task", [task.name for task in GLUE])
def test_lora2_has_the_dropout_of_adaloras_script(task: str) -> None:
    """Its released script differs from AdaLoRA's in ranks and rates only."""
    ours, theirs = (load_settings(RECIPES[name]) for name in (f"lora2/glue-{task}", f"adalora/glue-{task}-released"))
    assert ours.head.dropout == theirs.head.dropout
    assert (ours.head.dropout is None) == (task in ("cola", "qnli"))  # the script's 0.1 is the model's own


def test_no_recipe_hides_rows_with_faults() -> None:
    assert [name for name, path in RECIPES.items() if re.search(r"^ *skip_bad_rows:", path.read_text(), re.M)] == []
