"""What a controller's saved state holds, by field. By hand, as training needs nothing that PEFT does not bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import TapertuneError, shown
from ..events import is_count, is_number

_Check = Callable[[Any], bool]
_Fields = Mapping[str, tuple[_Check, str]]  # whether a value may stand there, and what may


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_loss(value: Any) -> bool:  # NaN and infinity are written as words
    return is_number(value) or (isinstance(value, str) and value in ("nan", "inf", "-inf"))


def _or_none(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


def _list_of(check: _Check, least: int = 0) -> _Check:
    return lambda value: isinstance(value, list) and len(value) >= least and all(map(check, value))


def _by_name(check: _Check) -> _Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


_is_object = _by_name(lambda value: True)
_COUNT, _NAMES = (is_count, "a whole number, zero or more"), (_list_of(_is_text), "a list of names")
_COUNTS = (_by_name(is_count), "whole numbers by name")

_REQUIRED: _Fields = {
    "version": _COUNT,
    "method": (_is_text, "text"),
    "plan": (lambda value: value is None or _is_object(value) or _list_of(_is_object)(value), "a plan, or several"),
    "total_steps": _COUNT,
    "step": _COUNT,
    "runners": (_list_of(_is_object), "a list of objects"),
    "trainable_start": _COUNT,
    "trainable_sum": _COUNT,
    "events": (_or_none(is_count), "a whole number, or null"),
}
_OPTIONAL: _Fields = {
    "started": _NAMES,
    "has_gradients": (_is_flag, "true or false"),
    "finite": (lambda value: _list_of(is_count, 2)(value) and len(value) == 2, "two whole numbers"),
    "optimizer": (_or_none(_list_of(_list_of(_or_none(_is_text)))), "lists of names"),
    "run": (_is_object, "an object"),
    "trainer": (_or_none(_is_object), "an object, or null"),
}
_RUNNER: _Fields = {
    "watched": _NAMES,
    "names": _NAMES,
    "frozen": _COUNTS,
    "total": _COUNT,
    "compacted": (_is_flag, "true or false"),
    "ranks": _COUNTS,
}
_RUNNER_OPTIONAL: _Fields = {
    "sizes": _COUNTS,
    "removed": (_is_flag, "true or false"),
    "looked": (_is_whole, "a whole number"),
}
_TRAINER: _Fields = {
    "losses": (_list_of(_is_loss, 1), "a list of numbers"),
    "logged": _COUNT,
    "total": (_is_loss, "a number"),
    "epoch_ended": (_is_flag, "true or false"),
    "grad_norm": (_or_none(_is_loss), "a number, or null"),
    "learning_rate": (_or_none(is_number), "a number, or null"),
}


def check_fields(state: Any, where: str) -> None:
    """Raises TapertuneError naming the first field that lacks or is of another kind. Fields that no one knows here are
    let through: what ``save_state`` is given, and later versions'."""
    _check(state, where, "", _REQUIRED, _OPTIONAL)
    for number, runner in enumerate(state["runners"]):
        _check(runner, where, f"runners.{number}.", _RUNNER, _RUNNER_OPTIONAL)
    if state.get("trainer") is not None:
        _check(state["trainer"], where, "trainer.", _TRAINER, {})


def _check(values: Any, where: str, place: str, required: _Fields, optional: _Fields) -> None:
    if not isinstance(values, dict):
        raise TapertuneError(f"{where} is not a whole state file (it holds no fields)")
    for name, (check, allowed) in {**required, **optional}.items():
        if name not in values and name in required:
            raise TapertuneError(f"{where} is not a whole state file ({place}{name} is missing)")
        if name in values and not check(values[name]):
            what = f"{place}{name} is {shown(values[name])}; it must be {allowed}"
            raise TapertuneError(f"{where} is not a whole state file ({what})")
