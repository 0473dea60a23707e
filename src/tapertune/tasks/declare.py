"""All tasks by name, and a run file's task block made into one."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import TapertuneError, bad_value, unknown
from .arithmetic import ARITHMETIC
from .base import Task
from .generation import chat, prompt_completion
from .glue import GLUE
from .newsgroups import NEWSGROUPS
from .own import regression, text_classification, token_classification
from .squad import SQUAD, question_answering
from .summarisation import SUMMARISATION

TASKS: dict[str, Task] = {task.name: task for task in (*GLUE, *ARITHMETIC, *SUMMARISATION, *NEWSGROUPS, *SQUAD)}

# Tasks over a user's own files: functions of column names and options.
OWN: dict[str, Callable[..., Task]] = {
    "text_classification": text_classification,
    "regression": regression,
    "token_classification": token_classification,
    "question_answering": question_answering,
    "prompt_completion": prompt_completion,
    "chat": chat,
}


def get_task(name: str) -> Task:
    """The declared task of that name.

    Raises:
        TapertuneError: there is none; the message names the nearest.

    >>> get_task("rte").text
    ('sentence1', 'sentence2')
    """
    if name not in TASKS:
        raise unknown("task", name, [*TASKS, *OWN])
    return TASKS[name]


def declare(name: str, fields: Mapping[str, Any], others: Sequence[str] = ()) -> Task:
    """The task of that name with a run file's fields: column names of own files, or what the task lets one set.

    Args:
        name: of a task.
        fields: values by field.
        others: names that are settings too, for the hint at a misspelt one.

    Raises:
        TapertuneError: there is no such task, or a field is not one of its own or has a wrong value.

    >>> declare("regression", {"text": "a", "scale": 5.0}).scale
    5.0
    """
    if name in OWN:
        types = {key: str(parameter.annotation) for key, parameter in inspect.signature(OWN[name]).parameters.items()}
        hints = typing.get_type_hints(OWN[name])
        _check(name, fields, {key: hints[key] for key in types}, others)
        return OWN[name](**fields)
    task = get_task(name)
    hints = typing.get_type_hints(type(task))
    _check(name, fields, {key: hints[key] for key in task.settable}, others)
    return dataclasses.replace(task, **fields)


def _check(name: str, fields: Mapping[str, Any], types: Mapping[str, Any], others: Sequence[str]) -> None:
    from pydantic import TypeAdapter, ValidationError

    for key, value in fields.items():
        if key not in types:
            if key in _columns():
                kinds = " and ".join(own for own, make in OWN.items() if key in inspect.signature(make).parameters)
                raise TapertuneError(f"task.{key} is no setting of {name}; it is for {kinds}")
            names = [f"task.{other}" for other in (*types, *others)]
            raise unknown("setting", f"task.{key}", names, settings=names)
        try:
            TypeAdapter(types[key]).validate_python(value, strict=True)
        except ValidationError as error:
            raise bad_value(f"task.{key}", value, error.errors()[0]["msg"].removeprefix("Input should be ")) from error


def task_fields(name: str) -> list[str]:
    """The fields of a task that a run file may set; none of a task that there is not."""
    if name in OWN:
        return list(inspect.signature(OWN[name]).parameters)
    return list(TASKS[name].settable) if name in TASKS else []


def _columns() -> set[str]:
    return {key for make in OWN.values() for key in inspect.signature(make).parameters}
