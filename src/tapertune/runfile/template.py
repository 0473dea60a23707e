"""The text of a run file for a user's own data, with a comment for what can be set."""

from __future__ import annotations

import dataclasses
from typing import Any

import yaml

from ..methods import METHODS
from ..tasks.guess import Guess
from .schema import modeline
from .settings import BASELINES, check_settings


def run_file_text(guess: Guess, *, name: str, train: str, validation: str | float, model: str, method: str) -> str:
    """A run file, checked.

    Args:
        guess: the task, and its columns.
        name: the run's.
        train, validation: files; or the second is the share of the first that is held out.
        model, method: the run's.

    Raises:
        TapertuneError: the settings are refused, as by ``check_settings``.
    """
    check_settings(
        {
            "name": name, "model": model, "method": method,
            "task": {"name": guess.task, "train": train, "validation": validation, **guess.fields},
        }
    )  # fmt: skip
    lines = [
        modeline(),
        f"name: {_value(name)}",
        f"model: {_value(model)}  # or any model of the hub, or a folder",
        "",
        "task:",
        f"  name: {guess.task}",
        f"  train: {_value(train)}",
        f"  validation: {_value(validation)}  # {_held(validation)}",
        *(f"  {key}: {_value(column)}{_why(guess, key)}" for key, column in guess.fields.items()),
        *_rest(guess),
        "  # max_length: 128  # tokens at which texts are cut",
        "",
        *_method(method),
        "training:  # fields of transformers.TrainingArguments",
        "  num_train_epochs: 3",
        "  per_device_train_batch_size: 16",
        "  learning_rate: auto  # the method's own rule; what it takes is printed, and kept in run.json",
        "  # bf16: true  # on hardware that has it",
        "",
        "# early_stopping: {patience: 2}  # end when so many evaluations in a row were no better",
        f"output_dir: {_value(f'runs/{name}')}",
        "seed: 42",
    ]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6).removesuffix("...\n").strip()


def _held(validation: str | float) -> str:
    return (
        "scored" if isinstance(validation, str) else "this share of the training rows is held out and scored; or a file"
    )


def _why(guess: Guess, key: str) -> str:
    reason = guess.reasons.get(key)
    return f"  # {reason}" if reason else ""


def _rest(guess: Guess) -> list[str]:
    rest = [column for column in guess.columns if column not in guess.fields.values()]
    return [f"  # other columns: {', '.join(rest)}".replace("\n", " ")] if rest else []


def _method(name: str) -> list[str]:
    """The method's block: every setting, with its default, as a comment."""
    if name in BASELINES:
        return [f"method: {name}", ""]
    row = METHODS[name]
    lines = ["method:", f"  name: {name}  # {row.summary}"]
    defaults = row.settings()
    for field in dataclasses.fields(row.settings):
        lines.append(f"  # {field.name}: {_value(getattr(defaults, field.name))}  # {field.metadata['help']}")
    return [*lines, ""]
