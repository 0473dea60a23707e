"""What people type, and the setting that they are told of."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tapertune import METHODS, TapertuneError, make_config
from tapertune.host import config_class
from tapertune.runfile.settings import check_settings, with_overrides
from tapertune.synonyms import _groups, nearest

RUN: dict[str, Any] = {"model": "minilm", "task": "qnli", "method": "lora"}


def refusal(changes: dict[str, Any], **run: Any) -> str:
    with pytest.raises(TapertuneError) as caught:
        check_settings(with_overrides({**RUN, **run}, changes))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr", "training.learning_rate"),
        ("learning_rate", "training.learning_rate"),
        ("training.lr", "training.learning_rate"),
        ("training.learningRate", "training.learning_rate"),
        ("method.lr", "training.learning_rate"),
        ("epochs", "training.num_train_epochs"),
        ("num_epochs", "training.num_train_epochs"),
        ("training.epoch", "training.num_train_epochs"),
        ("epohcs", "training.num_train_epochs"),
        ("batch_size", "training.per_device_train_batch_size"),
        ("bs", "training.per_device_train_batch_size"),
        ("training.batch_size", "training.per_device_train_batch_size"),
        ("eval_batch_size", "training.per_device_eval_batch_size"),
        ("steps", "training.max_steps"),
        ("grad_accum", "training.gradient_accumulation_steps"),
        ("warmup_ratio", "training.warmup_steps"),
        ("weight_decay", "training.weight_decay"),
        ("optimizer", "training.optim"),
        ("scheduler", "training.lr_scheduler_type"),
        ("evaluation_strategy", "training.eval_strategy"),
        ("num_workers", "training.dataloader_num_workers"),
        ("patience", "early_stopping.patience"),
        ("early_stopping_patience", "early_stopping.patience"),
        ("training.early_stopping_patience", "early_stopping.patience"),
        ("rank", "method.r"),
        ("r", "method.r"),
        ("lora_r", "method.r"),
        ("alpha", "method.lora_alpha"),
        ("lora_alpha", "method.lora_alpha"),
        ("dropout", "method.dropout"),
        ("lora_dropout", "method.dropout"),
        ("target_modules", "method.target_modules"),
        ("training.r", "method.r"),
        ("max_len", "task.max_length"),
        ("max_seq_length", "task.max_length"),
        ("train_file", "task.train"),
        ("validation_file", "task.validation"),
        ("text_column", "task.text"),
        ("label_column", "task.label"),
        ("sep", "task.delimiter"),
        ("output", "output_dir"),
        ("save_dir", "output_dir"),
        ("training.output", "output_dir"),
        ("model_name_or_path", "model"),
        ("base_model", "model"),
        ("random_seed", "seed"),
        ("training.seed", "seed"),
        ("precision", "dtype"),
        ("load_in_4bit", "quantization.bits"),
        ("num_threads", "threads"),
    ],
)
def test_what_is_typed_and_what_is_meant(typed: str, meant: str) -> None:
    run = {"task": {"name": "text_classification"}}
    if typed == "training.seed":  # a field of TrainingArguments, and so told apart
        assert "set elsewhere (seed)" in refusal({typed: 1}, **run)
    else:
        assert f"did you mean '{meant}'?" in refusal({typed: 1}, **run)


@pytest.mark.parametrize(
    ("method", "typed", "meant"),
    [
        ("lora", "init_r", "r"),
        ("lora", "rank", "r"),
        ("adalora", "rank", "init_r"),
        ("adalora", "alpha", "lora_alpha"),
        ("lora2", "lora_r", "init_r"),
        ("elora", "vera_dropout", "dropout"),
        ("sora", "lr", "training.learning_rate"),
    ],
)
def test_fields_of_methods(method: str, typed: str, meant: str) -> None:
    message = refusal({f"method.{typed}": 1}, method=method)
    assert f"unknown field of {method} '{typed}': did you mean '{meant}'?" in message
    allowed = message.partition("Allowed: ")[2].split(", ")
    defaults = {field.name: field.default for field in dataclasses.fields(config_class(method))}
    for name in allowed:  # a run accepts each of them
        check_settings(with_overrides({**RUN, "method": method}, {f"method.{name}": defaults[name]}))


@pytest.mark.parametrize("method", METHODS)
def test_peft_names_are_every_methods_own(method: str) -> None:
    rank = METHODS[method].rank
    settings = check_settings(with_overrides({**RUN, "method": method}, {"method.r": 3, "method.lora_dropout": 0.25}))
    assert settings.method.fields == {rank: 3, "dropout": 0.25}
    for config in (make_config(method, r=3, lora_dropout=0.25), config_class(method)(r=3, lora_dropout=0.25)):
        assert (getattr(config, rank), config.settings().dropout) == (3, 0.25)
        saved = config.to_dict()
        assert saved[rank] == 3 and "lora_dropout" not in saved and ("r" in saved) == (rank == "r")
    # what is typed counts, by whichever name the file has it
    for there, given in (({rank: 9}, "r"), ({"r": 9}, rank)):
        raw = with_overrides({**RUN, "method": {"name": method, **there}}, {f"method.{given}": 3})
        assert check_settings(raw).method.fields == {rank: 3}
    with pytest.raises(TapertuneError, match="lora_dropout and dropout are one setting: give one of them"):
        make_config(method, dropout=0.1, lora_dropout=0.1)
    if rank != "r":
        assert f"r and {rank} are one setting" in refusal({}, method={"name": method, rank: 3, "r": 4})


@pytest.mark.parametrize("make", [lambda **values: make_config("lora", **values), config_class("lora")])
def test_keywords_of_configs(make: Any) -> None:
    with pytest.raises(TapertuneError, match="unknown field of lora 'rank': did you mean 'r'\\? Allowed: ") as caught:
        make(rank=8)
    assert isinstance(caught.value, TypeError)  # PEFT looks for one where it reads a config of a later version
    assert "frozen" not in str(caught.value) and "peft_type" not in str(caught.value)


def test_pieces_of_plans() -> None:
    assert "'warmpu': did you mean 'warmup'?" in refusal({"plan.schedule.warmpu": 0.1}, method="aflora")
    assert "'warmpu': did you mean 'warmup'?" in refusal({"plan.schedule.warmpu": 0.1})
    assert "schedule has no kind. Allowed: constant, cubic" in refusal({"plan.schedule.warmup": 0.1})
    assert "'frequency': did you mean 'every'?" in refusal({"plan.schedule.frequency": 5}, method="aflora")
    assert "'sched': did you mean 'schedule'?" in refusal({"plan.sched": {}}, method="aflora")


def test_a_group_says_which_thing_it_is_of() -> None:
    for name, groups in _groups().items():
        assert name == name.lower() and "-" not in name
        assert all(len(group) > 1 for group in groups), name
    assert nearest("aflroa", METHODS) == "aflora"
    assert nearest("zzzzzz", ["lora", "aflora"]) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "run.yaml", "--lr", "1e-3"], "unknown setting 'lr': did you mean 'training.learning_rate'?"),
        (["train", "run.yaml", "--batch-size", "8"], "did you mean 'training.per_device_train_batch_size'?"),
        (["train", "run.yaml", "-lr", "1e-3"], "unknown option '-lr': settings are given as --lr VALUE"),
        (["evaluate", "x", "--bs", "8"], "unknown option '--bs': did you mean '--batch-size'?"),
        (["evaluate", "x", "--max_len", "8"], "unknown option '--max-len': did you mean '--task.max_length'?"),
        (["predict", "x", "y.csv", "--output", "z.csv"], "--output is no option of it: did you mean --out?"),
        (["demo", "--max-steps", "8"], "--max-steps is no option of it: did you mean --steps?"),
        (["evaluate", "x", "--batch_size", "0"], "'--batch-size'"),
    ],
)
def test_the_command(
    arguments: list[str], message: str, tmp_path: Any, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from tapertune.cli.main import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("model: minilm\ntask: qnli\nmethod: lora\n")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error
