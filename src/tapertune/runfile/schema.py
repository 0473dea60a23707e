"""Run files as JSON schema, for editors: pydantic's of the blocks, joined with the fields that methods, tasks and
TrainingArguments have.

Draft 7, which editors know best: there, nothing stands beside a ``$ref``. What JSON schema cannot say is left to the
loader: that 2.0 is no whole number, that one field is less than another, and which encodings Python knows.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from ..host.config import ChainConfig, run_fields
from ..methods import METHODS
from ..methods.rates import MOST
from ..tasks import OWN, TASKS
from ..tasks.class_weights import BALANCED
from ..tasks.csv_files import DELIMITERS
from ..tasks.generation import KINDS, Decoding, GenerationTask
from ..tasks.own import CLASS_METRICS, LABEL_METRICS
from ..tasks.text_metrics import TEXT_METRICS
from . import plan_schema
from .arguments import training_schema
from .blocks import TaskBlock
from .known import BASELINES
from .recipes import recipe_folder
from .settings import LONGEST_NAME, RunSettings

Schema = dict[str, Any]
FILE = "run.schema.json"
DRAFT = "http://json-schema.org/draft-07/schema#"
MODELINE = "# yaml-language-server: $schema="
_NULL: Schema = {"type": "null"}
_NAMES: Schema = {"type": "array", "items": {"type": "string"}}


def schema_text() -> str:
    """The schema of run files as its file has it."""
    return text_of(run_schema())


def text_of(schema: Schema) -> str:
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def modeline() -> str:
    """The comment by which an editor finds the schema that comes with the package."""
    return MODELINE + (recipe_folder() / FILE).as_posix()


def run_schema() -> Schema:
    """The schema of run files."""
    schema = plain(RunSettings.model_json_schema())
    fields = schema["properties"]
    fields["name"]["maxLength"] = LONGEST_NAME
    fields["output_dir"]["pattern"] = r"^$|\S"
    fields["task"] = task_schema(fields["task"]["description"])
    fields["method"] = method_schema(fields["method"]["description"])
    fields["training"] = {"anyOf": [training_schema(), _NULL], "description": fields["training"]["description"]}
    head = fields["head"]
    head["properties"]["learning_rate"]["anyOf"][0]["exclusiveMaximum"] = MOST
    fields["head"] = {"anyOf": [head, _NULL], "description": head.pop("description", "")}
    bits = fields["quantization"]["anyOf"][0]
    bits["if"] = {"properties": {"bits": {"const": 8}}, "required": ["bits"]}
    bits["then"] = {"properties": {"type": {"const": "nf4"}, "double": {"const": False}, "compute_dtype": _NULL}}
    return {
        "$schema": DRAFT,
        "title": "A run file of tapertune",
        **{key: value for key, value in schema.items() if key not in ("title", "description")},
        "allOf": [*_plans(), _of_baselines()],
        "definitions": plan_schema.definitions(),
    }


def method_schema(description: str = "") -> Schema:
    """A method's name, or its block."""
    names = [*METHODS, *BASELINES]
    block = {"type": "object", "required": ["name"], "properties": {"name": {"enum": names}}}
    cases = [_case([name], _method_fields(name)) for name in METHODS] + [_case(list(BASELINES), {})]
    for name, case in zip(METHODS, cases, strict=False):
        own = {"r": METHODS[name].rank, "lora_dropout": "dropout"}
        pairs = [[other, field] for other, field in own.items() if other != field]
        case["then"]["not"] = {"anyOf": [{"required": pair} for pair in pairs]}
        lists = {"target_modules": {"not": {"type": "string"}}}
        case["then"]["allOf"] = [
            {"if": _given("layers_to_transform"), "then": {"properties": lists}},
            {"if": _given("layers_pattern", truth=True), "then": _given("layers_to_transform")},
        ]
    return {"description": description, "anyOf": [{"enum": names}, block], "allOf": cases}


def task_schema(description: str = "") -> Schema:
    """A task's name, or its block."""
    names = [*OWN, *TASKS]
    block = {"type": "object", "required": ["name"], "properties": {"name": {"enum": names}}}
    common = plain(TaskBlock.model_json_schema())["properties"]
    del common["name"], common["max_length"]["default"]
    marks = [*DELIMITERS, "\\t"]
    common["delimiter"]["anyOf"][0] = {"anyOf": [{"enum": marks}, {"type": "string", "pattern": r'^[^"\r\n\u0000]$'}]}
    cases = [_case([name], {**common, **_own_task_fields(name)}) for name in OWN]
    of_classes = cases[list(OWN).index("text_classification")]["then"]
    several: Schema = {"properties": {"multi_label": {"const": True}}, "required": ["multi_label"]}
    of_classes["allOf"] = [{"if": several, "then": _metrics(LABEL_METRICS), "else": _metrics(CLASS_METRICS)}]
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, task in TASKS.items():
        groups.setdefault(task.settable, []).append(name)
    for group in groups.values():
        task = TASKS[group[0]]
        hints = typing.get_type_hints(type(task))
        helps = {field.name: field.metadata.get("help", "") for field in dataclasses.fields(task)}
        own = {key: _task_field(key, hints[key], helps[key], isinstance(task, GenerationTask)) for key in task.settable}
        cases.append(_case(group, {**common, **own}))
    return {"description": description, "anyOf": [{"enum": names}, block], "allOf": cases}


def _case(names: list[str], fields: Mapping[str, Schema]) -> Schema:
    """What a block with one of these names may hold."""
    name = {"enum": names}
    block = {"type": "object", "required": ["name"], "properties": {"name": name}}
    return {"if": block, "then": {"additionalProperties": False, "properties": {"name": name, **fields}}}


def _given(name: str, *, truth: bool = False) -> Schema:
    """A block in which a field is set; ``truth``: to something that is not empty."""
    empty: list[Any] = [None, "", []] if truth else [None]
    return {"required": [name], "properties": {name: {"not": {"enum": empty}}}}


def _method_fields(name: str) -> dict[str, Schema]:
    row = METHODS[name]
    fields = {field.name: field for field in dataclasses.fields(row.settings)}
    defaults = row.settings()
    made: dict[str, Schema] = {}
    for key, field in fields.items():
        check = field.metadata.get("check")
        known = getattr(check, "schema", None) or TypeAdapter(typing.get_type_hints(row.settings)[key]).json_schema()
        default = getattr(defaults, key)
        default = list(default) if isinstance(default, tuple) else default
        made[key] = {**known, "description": field.metadata["help"], "default": default}
    for other, key in (("r", row.rank), ("lora_dropout", "dropout")):
        made.setdefault(other, {**made[key], "description": f"PEFT's name of {key}"})
    text: Schema = {"type": "string"}
    names: Schema = {"anyOf": [text, _NAMES, _NULL]}
    rates: Schema = {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0}}
    tokens: Schema = {
        "type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "uniqueItems": True
    }  # fmt: skip
    shared: dict[str, Schema] = {
        "target_modules": names,
        "exclude_modules": names,
        "layers_pattern": names,
        "modules_to_save": {"anyOf": [_NAMES, _NULL]},
        "target_parameters": {"anyOf": [_NAMES, _NULL]},
        "trainable_token_indices": {"anyOf": [tokens, {"type": "object", "additionalProperties": tokens}, _NULL]},
        "train_layers": {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, _NULL]},
        "layers_to_transform": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}, _NULL]},
        "init_weights": {"type": "boolean"},
        "factor_rates": {"anyOf": [rates, _NULL]},
    }
    chain = row.chain(defaults)
    if chain.linear:  # else its factors depend on its settings
        rates["propertyNames"] = {"enum": list(chain.names)}
    helps = {field.name: field.metadata.get("help", "") for field in dataclasses.fields(ChainConfig)}
    of_run = [key for key in run_fields(name) if key not in fields]
    return {**made, **{key: {**shared[key], "description": helps[key]} for key in of_run}}


def _own_task_fields(name: str) -> dict[str, Schema]:
    make = OWN[name]
    helps = {key: " ".join(text.split()) for key, text in _ARGUMENT.findall(inspect.getdoc(make) or "")}
    hints = typing.get_type_hints(make)
    of_texts = "generation" in hints
    return {
        key: _task_field(key, hints[key], helps.get(key, ""), of_texts) for key in inspect.signature(make).parameters
    }


_ARGUMENT = re.compile(r"^    (\w+): ((?:.*\n(?:        .*\n)*))", re.MULTILINE)


def _task_field(name: str, hint: Any, help: str, of_texts: bool) -> Schema:
    """A field of a task's own."""
    metrics = list(TEXT_METRICS if of_texts else dict.fromkeys((*CLASS_METRICS, *LABEL_METRICS)))
    listed: Schema = {"type": "array", "minItems": 1, "items": {"enum": metrics}}
    weights: Schema = {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0}}
    known: dict[str, Schema] = {
        "metrics": listed if of_texts else {"anyOf": [listed, _NULL]},
        "label_separator": {"type": "string", "pattern": r"\S"},
        "class_weights": {"anyOf": [{"const": BALANCED}, weights, _NULL]},
        "kind": {"enum": list(KINDS)},
        "max_answer_length": {"type": "integer", "minimum": 2},
        "generation": _decoding(nullable=hint != typing.get_type_hints(GenerationTask)["generation"]),
    }  # fmt: skip
    return {**(known.get(name) or plain(TypeAdapter(hint).json_schema())), **({"description": help} if help else {})}


def _metrics(names: Sequence[str]) -> Schema:
    return {"properties": {"metrics": {"items": {"enum": list(names)}}}}


def _decoding(*, nullable: bool) -> Schema:
    least = {"num_beams": 1, "max_new_tokens": 1, "min_new_tokens": 0, "no_repeat_ngram_size": 0}
    fields: dict[str, Schema] = {}
    for field in dataclasses.fields(Decoding):
        if field.name in least:
            fields[field.name] = {"type": "integer", "minimum": least[field.name]}
        else:
            fields[field.name] = {"type": "boolean" if isinstance(field.default, bool) else "number"}
        fields[field.name]["description"] = field.metadata["help"]
    fields["repetition_penalty"]["exclusiveMinimum"] = 0
    block: Schema = {"type": "object", "additionalProperties": False, "properties": fields}
    return {"anyOf": [block, _NULL]} if nullable else block


def _plans() -> list[Schema]:
    """For each method what its plan may be."""
    return [
        {"if": _method_is([name]), "then": {"properties": {"plan": plan_schema.plan_schema(name)}}} for name in METHODS
    ]


def _of_baselines() -> Schema:
    """What has no adapter has no plan, and trains no quantised weights."""
    return {"if": _method_is(list(BASELINES)), "then": {"properties": {"plan": _NULL, "quantization": _NULL}}}


def _method_is(names: list[str]) -> Schema:
    name: Schema = {"enum": names}
    block = {"type": "object", "required": ["name"], "properties": {"name": name}}
    return {"required": ["method"], "properties": {"method": {"anyOf": [name, block]}}}


def plain(schema: Schema) -> Schema:
    """pydantic's schema with each ``$ref`` replaced by what it names, and without titles."""
    known = schema.get("$defs", {})

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(part) for part in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            node = {**known[node["$ref"].rpartition("/")[2]], **{k: v for k, v in node.items() if k != "$ref"}}
        return {
            key: {name: walk(part) for name, part in value.items()} if key == "properties" else walk(value)
            for key, value in node.items()
            if key != "$defs" and not (key == "title" and isinstance(value, str))
        }

    return walk(schema)
