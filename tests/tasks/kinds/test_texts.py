from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tasks.tiny_text import bart, llama, t5, tokenizer

from tapertune.errors import TapertuneError
from tapertune.tasks import TASKS
from tapertune.tasks.kinds import get_kind

MODELS = {"bart": bart, "t5": t5}


def endless() -> Any:
    made = tokenizer(before="", behind=" </s>")
    made.eos_token = None
    return made


def other() -> Any:
    return tokenizer(before="", behind=" <|end|>", end="<|end|>")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("task", ["sst2", "stsb"])
def test_a_classifier_that_reads_at_the_end_token_needs_it_behind_every_text(model: str, task: str) -> None:
    config = MODELS[model]().config
    one = replace(TASKS[task], text=("sentence",))
    kind = get_kind(one.kind)
    kind.check_model(one, config, tokenizer(before="", behind=" </s>"))
    cases = [(endless(), "None"), (other(), "'<|end|>'"), (tokenizer(before="", behind=""), "'</s>'")]
    for made, value in cases:
        with pytest.raises(TapertuneError) as caught:
            kind.check_model(one, config, made)
        assert str(caught.value) == (
            f"the model's tokenizer: eos_token is {value}; it must be the model's own, number 3, and the tokenizer must"
            f" put it behind every text: the classifier of {model} models reads there"
        )


def test_other_classifiers_do_without() -> None:
    get_kind("classification").check_model(TASKS["sst2"], llama().config, endless())
