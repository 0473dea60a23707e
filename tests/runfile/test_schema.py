"""The schema accepts and refuses what the loader does, but for what JSON schema cannot say."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runfile.run_files import run_file

from tapertune.compare import schema as grids
from tapertune.errors import TapertuneError
from tapertune.runfile import yamlfile
from tapertune.runfile.recipes import recipe_files, recipe_folder
from tapertune.runfile.schema import FILE, MODELINE, run_schema, schema_text
from tapertune.runfile.settings import check_settings

jsonschema: Any = pytest.importorskip("jsonschema")
pytestmark = pytest.mark.filterwarnings("ignore:policy.fold is now:FutureWarning")


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = run_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def is_accepted(raw: dict[str, Any]) -> bool:
    try:
        check_settings(raw)
    except TapertuneError:
        return False
    return True


def inside(value: Any) -> Iterator[Any]:
    """All that is in a file."""
    yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from inside(part)


def exception(raw: dict[str, Any]) -> str | None:
    """Why a file that the schema accepts may be refused, or the other way round."""
    values = list(inside(raw))
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    method, task, plan = (raw.get(name) for name in ("method", "task", "plan"))
    fields = method if isinstance(method, dict) else {}
    if any(isinstance(value, float) and value.is_integer() for value in numbers if abs(value) < 1e300):
        return "2.0 is a whole number to JSON schema"
    if any(value in (float("inf"), 1e300) or abs(value) >= 2**63 for value in numbers):
        return "JSON has neither infinity nor numbers of so many bits"
    if "<hidden>" in values:
        return "what a record hides stands for a value that is not there"
    if isinstance(task, dict) and isinstance(task.get("encoding"), str):
        return "which encodings there are, Python knows"
    if any(isinstance(value, str) and not value.isprintable() for value in (raw.get("name"), raw.get("output_dir"))):
        return "which characters can be printed, Unicode says"
    if {"init_r", "r", "target_r"} & set(fields):
        return "target_r is less than init_r, and a rank of 1 has another plan"
    if isinstance(task, dict) and "min_new_tokens" in (task.get("generation") or {}):
        return "min_new_tokens is at most max_new_tokens"
    if isinstance(task, dict) and task.get("packing") is True and task.get("kind") == "seq2seq":
        return "decoders alone read packed rows"
    if isinstance(task, dict) and task.get("class_weights") and task.get("labels"):
        return "weights are of the classes that are listed"
    if any(isinstance(value, dict) and "boundaries" in value for value in inside(plan)):
        return "boundaries are one fewer than parts"
    if any(name in fields for name in ("factor_rates", "p_sizes", "offsets")) and fields.get("name") == "loran":
        return "its factors depend on its settings"
    return None


def agreement(validator: Any, count: int, seed: int) -> Counter[str]:
    """What came of so many files."""
    draw, found = random.Random(seed), Counter[str]()
    for number in range(count):
        raw = run_file(draw)
        by_loader, by_schema = is_accepted(raw), validator.is_valid(raw)
        if by_loader == by_schema:
            found["accepted" if by_loader else "refused"] += 1
            continue
        reason = exception(raw)
        why = [error.message[:200] for error in validator.iter_errors(raw)]
        assert reason is not None, (number, "loader accepts" if by_loader else "schema accepts", raw, why)
        found[reason] += 1
    return found


def test_loader_and_schema_agree(validator: Any) -> None:
    found = agreement(validator, 300, seed=0)
    assert min(found["accepted"], found["refused"]) > 60
    assert found["accepted"] + found["refused"] > 270, found


@pytest.mark.slow
def test_loader_and_schema_agree_on_ten_thousand_files(validator: Any) -> None:
    found = agreement(validator, 10_000, seed=1)
    print(dict(found))
    assert found["accepted"] + found["refused"] > 9_300, found


def test_recipes_name_the_schema_and_keep_to_it(validator: Any) -> None:
    for path in recipe_files().values():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith(MODELINE)
        assert (path.parent / first.removeprefix(MODELINE)).resolve() == (recipe_folder() / FILE).resolve()
        validator.validate(yamlfile.read(path))


def test_committed_schemas_are_current() -> None:
    assert (recipe_folder() / FILE).read_text(encoding="utf-8") == schema_text(), "write it anew: make docs"
    assert (recipe_folder() / grids.FILE).read_text(encoding="utf-8") == grids.grid_schema_text(), "make docs"


def test_the_study_keeps_to_the_schema_of_grids() -> None:
    schema = json.loads(grids.grid_schema_text())
    jsonschema.Draft7Validator.check_schema(schema)
    path = Path(__file__).parents[2] / "benchmarks" / "study" / "minilm.yaml"
    jsonschema.Draft7Validator(schema).validate(yamlfile.read(path))
    wrong = {**yamlfile.read(path), "sedes": [1]}
    assert not jsonschema.Draft7Validator(schema).is_valid(wrong)
