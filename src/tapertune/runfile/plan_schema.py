"""The ``plan`` block of a run file as JSON schema: the pieces that there are, and what of them a method's plan has."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..adapt.importance import IMPORTANCES
from ..adapt.penalties import FORMS as ORTHOGONALITY_FORMS
from ..adapt.penalties import PENALTIES
from ..adapt.plan import FORMER_NAMES, SCHEDULES
from ..adapt.policies import FORMS, POLICIES
from ..adapt.spec import kind_of
from ..methods import METHODS

Schema = dict[str, Any]

PIECES: dict[str, tuple[type, ...]] = {
    "importance": IMPORTANCES,
    "schedule": SCHEDULES,
    "policy": POLICIES,
    "penalty": PENALTIES,
}
_SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_COUNT: Schema = {"type": "integer", "minimum": 1}
_FLAG: Schema = {"type": "boolean"}
_NAME: Schema = {"type": "string"}
_NAMES: Schema = {"type": "array", "items": _NAME}
_PAIRS: Schema = {"type": "array", "items": {"type": "array", "items": _NAME, "minItems": 2, "maxItems": 2}}
_AMOUNT: Schema = {"type": "number", "minimum": 0}
_DURATION: Schema = {"anyOf": [{"type": "integer", "minimum": 0}, _SHARE]}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


# What each field of a piece may be; the pieces check the same themselves.
_FIELDS: dict[str, Schema] = {
    "beta1": _SHARE, "beta2": _SHARE, "window": _or_null(_COUNT),
    "warmup": _DURATION, "cooldown": _DURATION, "every": _COUNT, "value": _SHARE,
    "parts": {"type": "array", "items": {"$ref": "#/definitions/schedule"}, "minItems": 1},
    "boundaries": {"type": "array", "items": _DURATION},
    "factors": _or_null(_NAMES), "freeze_vectors": _FLAG, "merge_frozen": _FLAG,
    "layers": {"anyOf": [_COUNT, {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}]},
    "evidence": _or_null({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
    "ahead": _SHARE, "behind": _SHARE,
    "gate": _NAME, "target": _COUNT, "scored": _or_null(_NAMES), "threshold": _AMOUNT, "times_lr": _FLAG,
    "weight": _AMOUNT, "rows": _NAMES, "columns": _NAMES, "row_products": _PAIRS, "column_products": _PAIRS,
}  # fmt: skip
_OF_KIND: dict[str, dict[str, Schema]] = {
    "proximal": {"form": {"enum": list(FORMS)}},
    "orthogonality": {"form": {"enum": list(ORTHOGONALITY_FORMS)}},
}


def definitions() -> dict[str, Schema]:
    """Each piece by its kind, as changes to one of that kind and as a whole one; and the parts of a plan."""
    made: dict[str, Schema] = {}
    for part, classes in PIECES.items():
        kinds = [kind_of(cls) for cls in classes]
        for kind, cls in zip(kinds, classes, strict=True):
            made[f"{part}.{kind}"] = _piece(part, kind, cls)
        made[part] = {
            "type": "object",
            "required": ["kind"],
            "properties": {"kind": {"enum": kinds}},
            "allOf": [_when_kind(part, kind, _required(cls)) for kind, cls in zip(kinds, classes, strict=True)],
        }
    made["plan"] = _plan({})
    return made


def plan_schema(method: str) -> Schema:
    """The block for a method: changes to its plan, or plans in a list, which take its place."""
    row = METHODS[method]
    default = row.plan(row.settings()) or {}
    plans = {"type": "array", "items": {"$ref": "#/definitions/plan"}}
    return {"anyOf": [_plan(default), plans, {"type": "null"}]}


def _plan(default: Any) -> Schema:
    parts = {part: _part(part, (default.get(part) or {}).get("kind")) for part in ("importance", "schedule", "policy")}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **parts,
            "penalties": {"type": "array", "items": {"$ref": "#/definitions/penalty"}},
            "final_update": _FLAG,
            "observe": {"enum": ["before", "after"]},
            "compact": {"enum": ["end", "on_event", "never"]},
        },
    }


def _part(part: str, own: str | None) -> Schema:
    """A part of a plan; where the method has a piece of the kind ``own``, its fields may be changed one by one."""
    whole: Schema = {"$ref": f"#/definitions/{part}"}
    if own is None:
        return whole
    other = {"type": "object", "required": ["kind"], "properties": {"kind": {"not": {"const": own}}}}
    return {"if": other, "then": whole, "else": {"$ref": f"#/definitions/{_name(part, own)}"}}


def _piece(part: str, kind: str, cls: type) -> Schema:
    own = _OF_KIND.get(kind, {})
    fields = {field.name: own.get(field.name) or _FIELDS[field.name] for field in dataclasses.fields(cls)}
    former = {old: new for old, new in FORMER_NAMES.items() if part == "policy" and new in fields}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {"kind": {"const": kind}, **fields, **{old: fields[new] for old, new in former.items()}},
        **({"not": {"anyOf": [{"required": [old, new]} for old, new in former.items()]}} if former else {}),
    }


def _required(cls: type) -> list[str]:
    missing = dataclasses.MISSING
    return [f.name for f in dataclasses.fields(cls) if f.default is missing and f.default_factory is missing]


def _when_kind(part: str, kind: str, required: list[str]) -> Schema:
    then: Schema = {"$ref": f"#/definitions/{_name(part, kind)}"}
    if required:
        then = {"allOf": [then, {"required": required}]}
    return {"if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]}, "then": then}


def _name(part: str, kind: str) -> str:
    """As a JSON pointer inside an address has it: kinds such as ``|g/p|`` hold a slash and bars."""
    return f"{part}.{kind}".replace("~", "~0").replace("/", "~1").replace("|", "%7C").replace("*", "%2A")
