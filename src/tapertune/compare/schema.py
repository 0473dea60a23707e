"""Grids' files as JSON schema, for editors: a run file's blocks in the places that grids have for them."""

from __future__ import annotations

from typing import Any

from ..runfile.plan_schema import definitions
from ..runfile.schema import DRAFT, method_schema, plain, run_schema, task_schema, text_of
from .grid import Grid
from .special import COMPRESSED, PEFT_ROWS

FILE = "grid.schema.json"
_RATE = {"type": "number", "exclusiveMinimum": 0}
_RATES: dict[str, Any] = {
    "anyOf": [
        {"type": "array", "minItems": 1, "items": _RATE},
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["from", "to", "per_decade"],
            "properties": {"from": _RATE, "to": _RATE, "per_decade": _RATE},
        },
    ]
}
_NOT_OF_A_BASE = ("method", "task", "plan", "seed", "output_dir", "name")


def grid_schema_text() -> str:
    """The schema of grids' files as its file has it."""
    return text_of(grid_schema())


def grid_schema() -> dict[str, Any]:
    """The schema of grids' files. Of rows' plans it knows no method, so that each piece needs its kind there."""
    schema = plain(Grid.model_json_schema())
    run, fields = run_schema(), schema["properties"]
    known = {name: part for name, part in run["properties"].items() if name not in _NOT_OF_A_BASE}
    fields["base"] = {"type": "object", "additionalProperties": False, "properties": known}
    row = fields["rows"]["additionalProperties"]
    row["required"] = []
    row["properties"] |= {
        "method": _method(row["properties"]["method"]["description"]),
        "rates": {"anyOf": [*_RATES["anyOf"], {"type": "null"}]},
        **{name: known[name] for name in ("training", "head", "quantization")},
    }
    task = fields["tasks"]["additionalProperties"]
    task["properties"]["task"] = {"enum": task_schema()["anyOf"][0]["enum"]}
    task["properties"]["training"] = known["training"]
    names = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    for name, block in (("rows", {"anyOf": [row, {"type": ["string", "null"]}]}), ("tasks", _or_null(task))):
        fields[name] = {"anyOf": [names, {"type": "object", "minProperties": 1, "additionalProperties": block}]}
    fields["rates"] = _RATES
    head = {"$schema": DRAFT, "title": "A grid of tapertune compare"}
    kept = {key: value for key, value in schema.items() if key not in ("title", "description")}
    return {**head, **kept, "definitions": definitions()}


def _method(description: str) -> dict[str, Any]:
    """A method of a run file, or a row that is for comparison only and has the fields that PEFT says."""
    schema = method_schema(description)
    names = {"enum": [*schema["anyOf"][0]["enum"], *PEFT_ROWS, COMPRESSED]}
    block = {"type": "object", "required": ["name"], "properties": {"name": names}}
    return {**schema, "anyOf": [names, block]}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}
