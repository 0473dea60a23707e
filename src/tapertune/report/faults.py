"""What of a run's files can be drawn where a part of them is damaged: whole events of known factors, fields of their
type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import shown
from ..events import Event, is_count, is_number
from .classes import is_class_table

_Check = tuple[Callable[[Any], bool], str]
_TEXT: _Check = lambda value: isinstance(value, str), "text"
_BLOCK: _Check = lambda value: isinstance(value, Mapping), "an object"
_FIELDS: dict[str, _Check] = {
    **dict.fromkeys(("name", "status", "method", "model", "task"), _TEXT),
    **dict.fromkeys(("settings", "versions", "hardware", "git", "time", "memory", "parameters"), _BLOCK),
    "classes": (is_class_table, "labels, with as many counts"),
    **dict.fromkeys(("seed", "steps", "adapter_bytes", "skipped_steps"), (is_count, "a whole number")),
}
_NUMBERS = ("time", "memory", "parameters")  # objects of numbers


def without_faults(record: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What ``run.json`` holds without the fields of another type than they have, and what these are."""
    kept, faults = dict(record), []
    for name, (allowed, words) in _FIELDS.items():
        if kept.get(name) is not None and not allowed(kept[name]):
            faults.append(f"{name} is {shown(kept.pop(name))}; it must be {words}")
    for name in _NUMBERS:
        block = dict(kept.get(name) or {})
        for key, value in list(block.items()):
            if value is not None and not is_number(value):
                faults.append(f"{name}.{key} is {shown(block.pop(key))}; it must be a number")
        kept[name] = block
    return kept, faults


def known_events(events: Sequence[Event]) -> tuple[list[Event], list[str]]:
    """The events that can be drawn, and what is wrong with the others: factors and modules that the ``start`` event
    does not list, counts that are missing."""
    factors = [item for event in events if event["type"] == "start" for item in event.get("factors") or []]
    names, modules = {item["name"] for item in factors}, {item["module"] for item in factors}
    kept: list[Event] = []
    faults: list[str] = []
    for event in events:
        fault = _fault(event, names, modules)
        if fault is None:
            kept.append(event)
        else:
            faults.append(f"{event['type']} event of step {event['step']}: {fault}")
    return kept, faults


def _fault(event: Event, names: set[str], modules: set[str]) -> str | None:
    if event["type"] in ("freeze", "prune", "end") and "trainable" not in event:
        return "trainable is missing"
    if event["type"] == "freeze":
        if "names" not in event:
            return "names is missing"
        strange = next((name for name in event["names"] if name not in names), None)
        return None if strange is None else f"{shown(strange)} is no factor of the start event"
    if event["type"] == "prune":
        if "ranks" not in event:
            return "ranks is missing"
        strange = next((name for name in event["ranks"] if name not in modules), None)
        return None if strange is None else f"{shown(strange)} is no module of the start event"
    if event["type"] == "eval":
        wrong = next((key for key, value in (event.get("metrics") or {}).items() if not _is_metric(value)), None)
        return None if wrong is None else f"metrics.{wrong} is {shown(event['metrics'][wrong])}; it must be a number"
    return None


def _is_metric(value: Any) -> bool:
    return value is None or is_number(value)
