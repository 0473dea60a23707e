from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tapertune.errors import TapertuneError
from tapertune.runfile.settings import check_settings, load_settings

LEAST: dict[str, Any] = {"model": "minilm", "task": "qnli", "method": "aflora"}


def check(**changes: Any) -> Any:
    from tapertune.runfile.yamlfile import apply_overrides

    return check_settings(apply_overrides(LEAST, {name.replace("__", "."): value for name, value in changes.items()}))


def test_short_forms_and_defaults() -> None:
    settings = check()
    assert (settings.task.name, settings.method.name) == ("qnli", "aflora")
    assert (settings.name, settings.output_dir, settings.seed) == ("aflora-qnli", "runs/aflora-qnli", 42)
    assert settings.training["learning_rate"] == check(method="full").training["learning_rate"] == "auto"


def test_resolved_settings_resolve_to_themselves() -> None:
    resolved = check(method__r=2, training__max_steps=3).resolved()
    assert check_settings(resolved).resolved() == resolved


def test_a_file_with_overrides(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: minilm\ntask: qnli\nmethod: {name: aflora, r: 8}\ntraining: {learning_rate: 3e-3}\n")
    settings = load_settings(path, {"method.r": 2, "seed": 3})
    assert (settings.method.fields, settings.seed, settings.training["learning_rate"]) == ({"r": 2}, 3, 0.003)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modle": "x"}, "unknown setting 'modle': did you mean 'model'?"),
        ({"task__max_lenght": 5}, "unknown setting 'task.max_lenght': did you mean 'task.max_length'?"),
        ({"head__learning_rat": 5}, "unknown setting 'head.learning_rat': did you mean 'head.learning_rate'?"),
        (
            {"training__learning_rat": 1.0},
            "unknown setting 'training.learning_rat': did you mean 'training.learning_rate'?",
        ),
        ({"method__lora_alpa": 1.0}, "'lora_alpa': did you mean 'lora_alpha'?"),
        ({"plan__shedule": {}}, "'shedule': did you mean 'schedule'?"),
        ({"plan__schedule": {"kind": "cubc"}}, "'cubc': did you mean 'cubic'?"),
        ({"plan__schedule": {"kind": "cubic", "warmpu": 1}}, "'warmpu': did you mean 'warmup'?"),
        ({"method": "aflroa"}, "unknown method 'aflroa': did you mean 'aflora'?"),
        ({"task": "qnly"}, "unknown task 'qnly': did you mean 'qnli'?"),
        ({"dtype": "float31"}, "dtype is 'float31'; it must be 'float32', 'bfloat16' or 'float16'"),
        ({"seed": "x"}, "seed is 'x'; it must be a whole number"),
        ({"seed": -1}, "seed is -1; it must be greater than or equal to 0"),
        ({"task__max_length": 0}, "task.max_length is 0; it must be greater than 0"),
        ({"task__max_length": "12"}, "task.max_length is '12'; it must be a whole number"),
        ({"method__r": 0}, "r is 0; it must be a positive whole number"),
        ({"training__learning_rate": "fast"}, "training.learning_rate is 'fast'; it must be a number"),
        ({"training__bf16": 1}, "training.bf16 is 1; it must be true or false"),
        ({"training__eval_steps": "x"}, "training.eval_steps is 'x'; it must be a number or null"),
        ({"training__output_dir": "x"}, "training.output_dir is set elsewhere (output_dir)"),
        ({"training__save_only_model": True}, "training.save_only_model is set elsewhere"),
        ({"method__task_type": "x"}, "method.task_type is no setting of a run"),
        ({"method__plan": {}}, "method.plan is no setting of a run: plan is a block of its own"),
        ({"task__text": "x"}, "task.text is no setting of qnli; it is for text_classification and regression"),
        ({"task": {"name": "regression", "labels": ["a", "b"]}}, "task.labels is no setting of regression"),
        ({"task": {"name": "text_classification", "scale": 2.0}}, "task.scale is no setting of text_classification"),
        ({"method": {"name": "full", "r": 2}}, "method.r: full has no settings"),
        ({"method": "head", "plan": {}}, "plan: head has no adapter"),
        ({"task": 3}, "task is 3; it must be a block of settings"),
        ({"training": [1]}, "training is [1]; it must be a block of settings"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TapertuneError) as caught:
        check(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["model", "task", "method"])
def test_what_is_missing_is_named(missing: str) -> None:
    with pytest.raises(TapertuneError, match=f"setting {missing} is missing"):
        check_settings({key: value for key, value in LEAST.items() if key != missing})
    with pytest.raises(TapertuneError, match=r"setting task.name is missing: a GLUE task"):
        check_settings({**LEAST, "task": {"data": "x"}})
