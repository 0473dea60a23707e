"""Searches settings by short runs that are scored on rows held out of the training file. Needs Optuna."""

from __future__ import annotations

import importlib
import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import TapertuneError, bad_value
from ..files import read_json, write_json, write_text
from ..methods import METHODS
from ..methods.rates import SuggestedRate
from ..runfile.settings import BASELINES, RunSettings, check_settings, with_overrides
from ..tasks.data import training_table
from .prepare import prepare
from .runner import run

RATE = "training.learning_rate"
SHARE, MOST, LEAST = 0.2, 500, 8  # of the training rows that are held out, at most and at least
_JOURNAL, _SEARCH, _TUNED = "trials.journal", "search.json", "tuned.yaml"
_LOWER = ("loss",)  # metrics of which less is better


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What a search has found.

    Attributes:
        values: settings by dotted name.
        metric, score: of the best trial, on the rows held out.
        trials: how many were run, those of earlier sittings among them.
        file: the run file with the best settings.
    """

    values: dict[str, Any]
    metric: str
    score: float
    trials: int
    file: Path


def tune(
    raw: Mapping[str, Any],
    folder: Path,
    *,
    trials: int,
    minutes: float | None = None,
    rank: bool = False,
    key_setting: bool = False,
    say: Callable[[str], None] = print,
) -> Tuned:
    """Runs trials, the first with the rule's rate, and writes ``tuned.yaml`` into the folder. What an earlier sitting
    has run of the same search counts.

    Args:
        raw: a run's settings, as in its file.
        folder: of the search.
        trials: how many in all.
        minutes: no trial begins after so long.
        rank, key_setting: search the rank, and the setting that the method's row names, too.
        say: told a line for each trial.

    Raises:
        TapertuneError: a wrong setting, no Optuna, too few training rows, or a folder that holds something else.
    """
    optuna = _optuna()
    if trials < 1:
        raise bad_value("--trials", trials, "1 or more")
    if minutes is not None and not minutes > 0:
        raise bad_value("--minutes", minutes, "more than 0")
    settings = check_settings(raw)
    choices = _choices(raw, settings, rank=rank, key_setting=key_setting)
    study, begun = _study(optuna, folder, settings, choices)
    held_out = _hold_out(settings, folder)
    base = {**held_out, "training.eval_strategy": "no", "training.save_strategy": "no"}
    rule = prepare(check_settings(with_overrides(dict(raw), {**base, RATE: "auto"}))).rule
    if not begun:
        study.enqueue_trial({RATE: float(rule)})
    done = _finished(study)

    def objective(trial: Any) -> float:
        values = _values(trial, rule, choices)
        place = folder / f"trial-{trial.number}"
        try:
            made = run(check_settings(with_overrides(dict(raw), {**base, **values, "output_dir": str(place)})))
        except ArithmeticError as error:
            raise optuna.TrialPruned(str(error)) from error
        finally:
            shutil.rmtree(place, ignore_errors=True)
        say(f"trial {trial.number}: {made['score']['metric']} {made['score']['value']:.4f} with {_shown(values)}")
        return made["score"]["value"]

    if done < trials:
        study.optimize(objective, n_trials=trials - done, timeout=None if minutes is None else 60 * minutes)
    return _write(study, raw, folder, settings)


def _optuna() -> Any:
    try:
        optuna: Any = importlib.import_module("optuna")
    except ImportError as error:
        raise TapertuneError("tapertune tune needs optuna: pip install optuna") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _choices(
    raw: Mapping[str, Any], settings: RunSettings, *, rank: bool, key_setting: bool
) -> dict[str, tuple[Any, ...]]:
    """The values to try by dotted name, beside the rate; those that the method refuses are left out."""
    name = settings.method.name
    if not (rank or key_setting):
        return {}
    if name in BASELINES:
        raise TapertuneError(f"method {name} has neither a rank nor settings: its rate alone can be tuned")
    row = METHODS[name]
    found: dict[str, tuple[Any, ...]] = {}
    if rank:
        own = settings.method.fields.get(row.rank, getattr(row.settings(), row.rank))
        found[f"method.{row.rank}"] = tuple(dict.fromkeys(max(1, int(own * share)) for share in (0.5, 1, 2, 4)))
    if key_setting:
        if row.tunes is None:
            raise TapertuneError(f"method {name} names no setting to tune beside its rate and rank")
        found[f"method.{row.tunes[0]}"] = row.tunes[1]
    return {key: tuple(v for v in values if _allowed(raw, key, v)) for key, values in found.items()}


def _allowed(raw: Mapping[str, Any], key: str, value: Any) -> bool:
    try:
        check_settings(with_overrides(dict(raw), {key: value}))
    except TapertuneError:
        return False
    return True


def _study(optuna: Any, folder: Path, settings: RunSettings, choices: Mapping[str, Any]) -> tuple[Any, bool]:
    """The study in a folder, and whether it was begun before."""
    plain = settings.resolved()
    search = json.loads(json.dumps({"settings": plain, "choices": choices}, default=list))
    file = folder / _SEARCH
    begun = file.is_file()
    if begun:
        if read_json(file) != search:
            raise TapertuneError(f"{str(folder)!r} holds a search with other settings: choose another --output-dir")
    elif folder.exists() and any(folder.iterdir()):
        raise TapertuneError(f"{str(folder)!r} holds files that are no search's: choose another --output-dir")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, search)
    backend = importlib.import_module("optuna.storages.journal").JournalFileBackend(str(folder / _JOURNAL))
    storage = optuna.storages.JournalStorage(backend)
    known = optuna.get_all_study_summaries(storage)
    done = known[0].n_trials if known else 0
    study = optuna.create_study(
        study_name="tune",
        storage=storage,
        load_if_exists=True,
        direction="minimize" if settings.task.declaration().main_metric in _LOWER else "maximize",
        sampler=optuna.samplers.TPESampler(seed=settings.seed + done),
    )
    return study, bool(study.trials)


def _hold_out(settings: RunSettings, folder: Path) -> dict[str, Any]:
    """Writes the training rows in two parts that share no text, and returns the settings that name them.

    Raises:
        TapertuneError: there are too few rows, or they are a stream.
    """
    block = settings.task
    if block.stream:
        raise TapertuneError("task.stream: rows are held out of files that are read whole; tune without it")
    task = block.declaration()
    table = training_table(task, data=block.data, train=block.train, validation=block.validation, form=block.form)
    rows = [row for _, row in table.rows()][: block.train_rows]
    order = list(dict.fromkeys(json.dumps([row.get(name) for name in task.text], default=str) for row in rows))
    random.Random(settings.seed).shuffle(order)
    count = min(int(len(order) * SHARE), MOST)
    if count < LEAST:
        raise TapertuneError(
            f"{table.name}: {len(order)} different training rows are too few to hold {LEAST} out of for the selection;"
            f" {int(LEAST / SHARE)} are needed"
        )
    held = set(order[:count])
    parts: dict[str, list[Any]] = {"train": [], "selection": []}
    for row in rows:
        text = json.dumps([row.get(name) for name in task.text], default=str)
        parts["selection" if text in held else "train"].append(row)
    for name, part in parts.items():
        lines = "".join(json.dumps(dict(row), default=str) + "\n" for row in part)
        write_text(folder / f"{name}.jsonl", lines)
    changed: dict[str, Any] = {"task.data": None, "task.train_rows": None, "task.validation_rows": None}
    changed |= {"task.delimiter": None, "task.encoding": None, "task.quotes": True}
    return changed | {
        "task.train": str(folder / "train.jsonl"),
        "task.validation": str(folder / "selection.jsonl"),
    }


def _values(trial: Any, rule: SuggestedRate, choices: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    values: dict[str, Any] = {RATE: float(f"{trial.suggest_float(RATE, rule.low, rule.high, log=True):.2e}")}
    return values | {key: trial.suggest_categorical(key, list(options)) for key, options in choices.items()}


def _finished(study: Any) -> int:
    return sum(trial.state.is_finished() and trial.state.name != "FAIL" for trial in study.trials)


def _write(study: Any, raw: Mapping[str, Any], folder: Path, settings: RunSettings) -> Tuned:
    done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if not done:
        raise TapertuneError("no trial came to its end: every one diverged, or --minutes was too short for the first")
    values = dict(study.best_params)
    values[RATE] = float(f"{values[RATE]:.2e}")
    metric = settings.task.declaration().main_metric
    file = folder / _TUNED
    text = "".join(f"# {line}\n" for line in _head(study, metric, values))
    text += yaml.safe_dump(with_overrides(dict(raw), values), sort_keys=False, allow_unicode=True)
    write_text(file, text)
    return Tuned(values=values, metric=metric, score=study.best_value, trials=_finished(study), file=file)


def _head(study: Any, metric: str, values: Mapping[str, Any]) -> Iterator[str]:
    yield f"Tuned by tapertune tune: {_finished(study)} trials, scored on rows held out of the training file."
    yield f"{metric} {study.best_value:.4f} there with {_shown(values)}."


def _shown(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )
