from __future__ import annotations

import re
from pathlib import Path

import pytest

from tapertune.cost.recipes import check_recipe
from tapertune.errors import TapertuneError
from tapertune.runfile.recipes import find_recipe, recipe_files, run_file
from tapertune.runfile.settings import adapter_config, load_settings
from tapertune.tasks.glue import GLUE

RECIPES = recipe_files()


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_fits_its_model_and_trains_what_it_says(name: str) -> None:
    recipe = check_recipe(RECIPES[name], name)
    settings, shape = recipe.settings, recipe.shape
    assert shape is not None and recipe.steps is not None and recipe.flops is not None
    assert settings.name == name.replace("/", "-")
    assert settings.method.name == (name.partition("/")[0] if "/" in name else name.removeprefix("demo-"))
    comment = said(RECIPES[name])
    assert comment
    if "/" in name:
        assert re.findall(r"Trains ([\d,]+) parameters", comment) == [f"{shape.start:,}"]
    for vectors in re.findall(r"at the start, ([\d,]+) when all A and B are frozen", comment):
        assert vectors == f"{shape.vectors:,}"


@pytest.mark.parametrize("name", [name for name in RECIPES if "/" in name])
def test_recipe_names_its_source(name: str) -> None:
    comment = said(RECIPES[name])
    assert name.startswith("full/") or re.search(r"arXiv \d{4}\.\d{5}|2024\.findings-emnlp\.177", comment)
    assert re.search(r"released|Values: ours|[Pp]aper", comment)
    for other in re.findall(r"\b(?:glue|xsum|aflora/glue|adalora/glue)-[\w-]+", comment):
        assert other in RECIPES or f"{name.partition('/')[0]}/{other}" in RECIPES, other


def said(path: Path) -> str:
    """The comment at the top of a file, in one line."""
    lines = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    return " ".join(line.removeprefix("# ") for line in lines)


@pytest.mark.parametrize("method", ["aflora", "adalora", "lora2", "elora", "lora", "full"])
def test_every_glue_task_has_a_recipe(method: str) -> None:
    assert {f"{method}/glue-{task.name}" for task in GLUE} <= set(RECIPES)


# The released scripts' steps, and the first and last step of the phase in which matrices freeze.
WINDOWS = [
    ("cola", 2680, 134, 804),
    ("mrpc", 1160, 58, 348),
    ("stsb", 1800, 90, 540),
    ("rte", 780, 39, 234),
    ("sst2", 10530, 1053, 3159),
    ("qnli", 4100, 410, 1230),
    ("mnli", 15340, 1534, 4602),
    ("qqp", 14220, 1422, 4266),
]


@pytest.mark.parametrize(("task", "steps", "first", "last"), WINDOWS)
def test_the_released_windows_of_freezing(task: str, steps: int, first: int, last: int) -> None:
    (plan,) = adapter_config(load_settings(find_recipe(f"aflora/glue-{task}"))).resolved_plans()
    assert plan.schedule.remaining(first, steps) == 1.0 > plan.schedule.remaining(first + 1, steps)
    assert plan.schedule.remaining(last, steps) == 0.0 < plan.schedule.remaining(last - 1, steps)


def test_the_threshold_rises_in_stages() -> None:
    settings = load_settings(find_recipe("sora/glue-rte-released"))
    (plan,) = adapter_config(settings).resolved_plans()
    epoch, total = 78, 78 * 155
    left = [plan.schedule.remaining(epoch * at, total) for at in (0, 49, 51, 66, 139, 141, 154)]
    assert left == pytest.approx([1, 1, 6 / 7, 5 / 7, 1 / 7, 0, 0], abs=1e-6)


def test_what_the_paper_and_the_scripts_do_differently() -> None:
    def read(name: str, key: str) -> object:
        block, _, field = key.partition(".")
        return load_settings(find_recipe(name)).resolved()[block][field]

    for task, key, paper, script in (
        ("qnli", "training.learning_rate", 1.2e-3, 5e-4),
        ("qqp", "training.learning_rate", 5e-4, 8e-4),
        ("cola", "training.learning_rate", 5e-4, 8e-4),
        ("cola", "method.orth_reg_weight", 0.5, 0.1),
        ("stsb", "method.orth_reg_weight", 0.1, 0.3),
    ):
        assert (read(f"adalora/glue-{task}", key), read(f"adalora/glue-{task}-released", key)) == (paper, script)
    assert (read("aflora/glue-qqp", "method.r"), read("aflora/glue-qqp-released", "method.r")) == (4, 1024)


def test_the_demos_arms_differ_in_method_plan_and_learning_rate_only() -> None:
    lora, aflora = (load_settings(find_recipe(f"demo-{name}")).resolved() for name in ("lora", "aflora"))
    for settings in (lora, aflora):
        for key in ("name", "method", "plan", "output_dir"):
            del settings[key]
        del settings["training"]["learning_rate"]
    assert lora == aflora


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(TapertuneError, match="unknown recipe 'demo-lorra': did you mean 'demo-lora'"):
        find_recipe("demo-lorra")
    with pytest.raises(TapertuneError, match="did you mean 'aflora/glue-rte'"):
        find_recipe("aflora-glue-rte")


def test_a_run_file_is_a_path_or_a_recipe(tmp_path: Path) -> None:
    assert run_file("lora/glue-rte") == RECIPES["lora/glue-rte"]
    mine = tmp_path / "mine"
    mine.touch()
    assert run_file(str(mine)) == mine
    assert run_file("missing.yaml") == Path("missing.yaml")  # reading it says that it is not there
    with pytest.raises(TapertuneError, match="unknown recipe 'nothing/like-it'"):
        run_file("nothing/like-it")
