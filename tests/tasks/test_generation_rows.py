"""Rows in, features out: what is checked, where loss is, which side is padded, what becomes of what is too long."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from tasks.tiny_text import PLAIN_TASK, bart, llama, t5, tokenizer

from tapertune.errors import TapertuneError
from tapertune.tasks import TASKS, declare
from tapertune.tasks.fields import BadField, UnknownLabel
from tapertune.tasks.generation import GenerationTask, chat, prompt_completion
from tapertune.tasks.kinds import get_kind

CAUSAL, SEQ2SEQ = get_kind("causal_lm"), get_kind("seq2seq")
TASK = GenerationTask(**PLAIN_TASK, format="plain")


def rows(task: GenerationTask, *pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [CAUSAL.check(task, {"q": question, "a": answer}) for question, answer in pairs]


def test_columns() -> None:
    task = TASKS["addsub"]
    assert CAUSAL.columns(task) == ("instruction", "output", "answer")
    assert CAUSAL.columns(task, labelled=False) == ("instruction",)
    assert CAUSAL.columns(chat()) == ("messages",)


def test_a_row_in_each_format() -> None:
    row = {"q": " one and two ", "a": " 3 ", "c": "of apples"}
    made = dataclasses.replace(TASK, prefix="add: ", suffix=" =", context="c")
    assert CAUSAL.check(made, row) == {
        "instruction": "add:  one and two \nof apples =",
        "context": "",
        "answer": " 3 ",
        "reference": " 3 ",
    }
    made = GenerationTask(**PLAIN_TASK, context="c")
    assert CAUSAL.check(made, row) == {
        "instruction": "one and two", "context": "of apples", "answer": "3", "reference": "3",
    }  # fmt: skip
    made = GenerationTask(**PLAIN_TASK, instruction="Add.", format="chat")
    assert CAUSAL.check(made, row, labelled=False) == {"instruction": "Add.", "context": "one and two"}


@pytest.mark.parametrize("context", [{}, {"c": None}, {"c": ""}])
def test_a_context_may_be_missing(context: dict[str, Any]) -> None:
    found = CAUSAL.check(GenerationTask(**PLAIN_TASK, context="c"), {"q": "one", "a": "two", **context})
    assert found["context"] == ""


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"q": None, "a": "x"}, "'q' is None; it must be text"),
        ({"q": 3, "a": "x"}, "'q' is 3; it must be text"),
        ({"q": " ", "a": "x"}, "'q' is ' '; it must be text that is not empty"),
        ({"q": "x", "a": ""}, "'a' is ''; it must be text that is not empty"),
        ({"q": "x"}, "'a' is missing"),
        ({"q": "x", "a": ["y"]}, "it must be text"),
    ],
)
def test_bad_rows(row: dict[str, Any], message: str) -> None:
    with pytest.raises(BadField, match=message):
        CAUSAL.check(TASK, row)


def test_a_reference_needs_a_number_where_numbers_are_compared() -> None:
    row = {"instruction": "q", "input": "", "output": "The answer is 4.", "answer": 4.0}
    assert CAUSAL.check(TASKS["addsub"], row)["reference"] == "4.0"
    with pytest.raises(
        BadField, match="'answer' is 'four apples'; it must be an answer with a number in it, or a letter"
    ):
        CAUSAL.check(TASKS["addsub"], {**row, "answer": "four apples"})
    with pytest.raises(BadField, match="'answer' is True; it must be text or a number"):
        CAUSAL.check(TASKS["addsub"], {**row, "answer": True})


def test_class_names_are_answers() -> None:
    task = TASKS["newsgroups20_generation"]
    assert CAUSAL.check(task, {"text": "a post", "label": 11})["answer"] == "sci.crypt"
    assert CAUSAL.check(task, {"text": "a post", "label": "sci.space"})["answer"] == "sci.space"
    with pytest.raises(UnknownLabel):
        CAUSAL.check(task, {"text": "a post", "label": 20})


def talk(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_conversations() -> None:
    row = talk(("system", "be kind"), ("user", "hi"), ("assistant", "hello"))
    assert CAUSAL.check(chat(), row) == {
        "messages": row["messages"][:2], "answer": "hello", "reference": "hello",
    }  # fmt: skip
    assert CAUSAL.check(chat(), row, labelled=False) == {"messages": row["messages"][:2]}
    assert CAUSAL.check(chat(), talk(("user", "hi")), labelled=False) == talk(("user", "hi"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": "hi"}, "it must be a list of messages"),
        ({"messages": []}, "it must be a list of messages"),
        ({"messages": ["hi"]}, "message 1' is 'hi'; it must be an object with a role"),
        (talk(("human", "hi")), "role \\(system, user, assistant\\)"),
        (talk(("user", " ")), "content that is not empty"),
        (talk(("user", "hi")), "whose last message is the assistant's"),
        (talk(("assistant", "hi")), "a message of the user before the answer"),
        (talk(("user", "a"), ("system", "b"), ("assistant", "c")), "message 2'.*the system's is first"),
    ],
)
def test_bad_conversations(row: dict[str, Any], message: str) -> None:
    with pytest.raises(BadField, match=message):
        CAUSAL.check(chat(), row)


def test_a_decoders_training_rows() -> None:
    made = tokenizer()
    found = CAUSAL.encode(TASK, rows(TASK, ("one and", "two"), ("one " * 30, "two"), ("one", "two " * 30)), made, 20,
                          train=True)  # fmt: skip
    assert found.owners == [0, 1]  # the third answer does not fit
    assert (found.truncated, found.left_out, found.answers_cut) == (1, 1, 0)
    assert found.rows[0]["labels"] == [-100] * 3 + made("two </s>", add_special_tokens=False)["input_ids"]
    assert [len(row["input_ids"]) for row in found.rows] == [5, 20]


def test_a_decoders_loss_on_everything() -> None:
    task = dataclasses.replace(TASK, train_on_prompt=True)
    [row] = CAUSAL.encode(task, rows(task, ("one and", "two")), tokenizer(), 20, train=True).rows
    assert row["labels"] == row["input_ids"]


def test_a_decoders_evaluation_rows() -> None:
    made = tokenizer()
    examples = rows(TASK, ("one and", "two"), ("one", "two " * 30))
    found = CAUSAL.encode(TASK, examples, made, 20, train=False)
    assert [made.decode(row["input_ids"]) for row in found.rows] == ["<s> one and", "<s> one"]
    assert found.owners == [0, 1] and (found.truncated, found.left_out) == (0, 1)
    assert [extra is None for extra in found.extras] == [False, True]  # loss is computed where the answer fits
    bare = [{"instruction": "one", "context": ""}]
    unanswered = CAUSAL.encode(TASK, bare, made, 20, train=False)
    assert unanswered.extras == [None] and unanswered.left_out == 0


def test_an_encoder_decoders_rows() -> None:
    made = tokenizer(before="", behind=" </s>")
    task = dataclasses.replace(TASK, kind="seq2seq", max_answer_length=4)
    examples = rows(task, ("one and two", "two"), ("one two three four five", "two"), ("one", "two three four five"))
    found = SEQ2SEQ.encode(task, examples, made, 4, train=True)
    assert [made.decode(row["input_ids"]) for row in found.rows] == ["one and two </s>", "one two three </s>"]
    assert [made.decode(row["labels"]) for row in found.rows] == ["two </s>", "two </s>"]
    assert found.owners == [0, 1] and (found.truncated, found.left_out) == (1, 1)
    evaluated = SEQ2SEQ.encode(task, examples, made, 4, train=False)
    assert len(evaluated) == 3 and evaluated.extras[2] is None and evaluated.left_out == 1


def test_an_encoder_decoders_long_answers_are_cut_if_asked_for() -> None:
    made = tokenizer(before="", behind=" </s>")
    task = dataclasses.replace(TASK, kind="seq2seq", max_answer_length=4, cut_answers=True)
    found = SEQ2SEQ.encode(task, rows(task, ("one", "two three four five six")), made, 8, train=True)
    assert made.decode(found.rows[0]["labels"]) == "two three four </s>"
    assert (found.truncated, found.answers_cut, found.left_out) == (0, 1, 0)


def test_where_nothing_fits_there_are_no_rows() -> None:
    found = CAUSAL.encode(TASK, rows(TASK, ("one", "two " * 30)), tokenizer(), 8, train=True)
    assert found.rows == [] and found.owners == []
    task = dataclasses.replace(TASK, max_answer_length=4)
    assert SEQ2SEQ.encode(task, rows(task, ("one", "two " * 30)), tokenizer(), 8, train=True).rows == []


def test_padding_is_right_to_train_and_left_to_generate() -> None:
    made = tokenizer()
    features = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8], "labels": [8]}]
    batch = CAUSAL.collator(TASK, made, train=True)(features)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]
    batch = CAUSAL.collator(TASK, made, train=False)([{"input_ids": [5, 6, 7]}, {"input_ids": [8]}])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert "labels" not in batch


def test_an_end_token_that_also_pads_keeps_its_loss() -> None:
    made = tokenizer()
    made.pad_token = made.eos_token
    found = CAUSAL.encode(TASK, rows(TASK, ("one", "two"), ("one two", "two")), made, 20, train=True)
    labels = CAUSAL.collator(TASK, made, train=True)(found.rows)["labels"]
    assert [(row == made.eos_token_id).sum().item() for row in labels] == [1, 1]


def test_an_encoder_decoders_batch() -> None:
    features = [{"input_ids": [5, 6, 7], "labels": [6]}, {"input_ids": [8], "labels": [8, 9]}]
    batch = SEQ2SEQ.collator(TASK, tokenizer(), train=True)(features)
    assert batch["labels"].tolist() == [[6, -100], [8, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_models_that_do_not_fit() -> None:
    made = tokenizer()
    small = dataclasses.replace(TASK, max_length=64, generation={"max_new_tokens": 64})
    CAUSAL.check_model(small, llama(positions=128).config, made)
    SEQ2SEQ.check_model(dataclasses.replace(small, max_answer_length=64), bart().config, made)
    with pytest.raises(TapertuneError, match=r"t5 is an encoder-decoder: set task.kind to seq2seq"):
        CAUSAL.check_model(small, t5().config, made)
    with pytest.raises(TapertuneError, match=r"llama is none: for a decoder set task.kind to causal_lm"):
        SEQ2SEQ.check_model(small, llama().config, made)
    bert = SimpleNamespace(model_type="bert", is_encoder_decoder=False, is_decoder=False)
    with pytest.raises(TapertuneError, match="bert is an encoder"):
        CAUSAL.check_model(small, bert, made)
    with pytest.raises(TapertuneError, match="make 128 tokens; this model reads 100"):
        CAUSAL.check_model(small, llama(positions=100).config, made)
    with pytest.raises(TapertuneError, match=r"max_answer_length is 128; this model reads 64 tokens"):
        SEQ2SEQ.check_model(small, bart().config, made)


@pytest.mark.parametrize(("kind", "make"), [(CAUSAL, llama), (SEQ2SEQ, bart), (SEQ2SEQ, t5)])
def test_answers_need_an_end_token_that_the_model_knows(kind: Any, make: Any) -> None:
    task = dataclasses.replace(TASK, max_length=16, max_answer_length=16, generation={"max_new_tokens": 8})
    made, config = tokenizer(), make().config
    kind.check_model(task, config, made)
    made.eos_token = None
    with pytest.raises(TapertuneError, match=r"eos_token is None; it must be the token that ends an answer, such as"):
        kind.check_model(task, config, made)
    made.add_special_tokens({"eos_token": "<|new|>"})
    with pytest.raises(TapertuneError, match=r"'<\|new\|> \(number 41\)'; it must be one of the 41 tokens"):
        kind.check_model(task, config, made)


def test_a_task_without_text_answers_cannot_be_of_these_kinds() -> None:
    with pytest.raises(TapertuneError, match="no answers to generate"):
        CAUSAL.columns(TASKS["rte"])


def test_settings_of_a_run() -> None:
    task = declare("gsm8k", {"generation": {"num_beams": 4}, "format": "chat"})
    assert isinstance(task, GenerationTask)
    assert (task.generating.num_beams, task.generating.max_new_tokens) == (4, 256)
    task = declare("samsum", {"kind": "causal_lm"})
    assert isinstance(task, GenerationTask)
    assert (task.prompt_format, task.prompt_cut) == ("alpaca", "middle")
    seq2seq = TASKS["samsum"]
    assert isinstance(seq2seq, GenerationTask)
    assert (seq2seq.prompt_format, seq2seq.prompt_cut) == ("plain", "end")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generation": {"num_beam": 4}}, "task.generation.num_beam.*did you mean 'task.generation.num_beams'"),
        ({"generation": {"num_beams": 0}}, "task.generation.num_beams is 0; it must be a whole number, 1 or more"),
        ({"generation": {"num_beams": True}}, "num_beams is True"),
        ({"generation": {"length_penalty": "x"}}, "length_penalty is 'x'; it must be a number"),
        ({"generation": {"repetition_penalty": 0}}, "repetition_penalty is 0; it must be a number above 0"),
        ({"generation": {"use_cache": 1}}, "use_cache is 1; it must be true or false"),
        ({"generation": {"min_new_tokens": 900}}, "min_new_tokens is 900; it must be at most max_new_tokens"),
        ({"format": "alpacca"}, "unknown task.format 'alpacca': did you mean 'alpaca'"),
        ({"kind": "seq2sec"}, "did you mean 'seq2seq'"),
        ({"cut": "front"}, "unknown task.cut 'front'"),
        ({"metrics": ("rouge",)}, "unknown metric 'rouge': did you mean 'rouge"),
        ({"metrics": ()}, "task.metrics is \\(\\); it must be one name or more"),
        ({"max_answer_length": 1}, "task.max_answer_length is 1"),
    ],
)
def test_wrong_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TapertuneError, match=message):
        dataclasses.replace(TASK, **changes)


def test_conversations_have_one_format() -> None:
    with pytest.raises(TapertuneError, match=r"task.format is 'plain'; it must be chat"):
        dataclasses.replace(chat(), format="plain")


def test_own_prompts_are_used_as_they_are() -> None:
    task = prompt_completion(prompt="q", completion="a", metrics=["rouge1"])
    assert CAUSAL.check(task, {"q": " one:", "a": " two"})["instruction"] == " one:"


def test_own_files_in_a_run_file() -> None:
    task = declare("prompt_completion", {"prompt": "q", "format": "alpaca", "generation": {"num_beams": 2}})
    assert isinstance(task, GenerationTask)
    assert (task.text, task.prompt_format, task.generating.num_beams) == (("q",), "alpaca", 2)
    task = declare("chat", {"messages": "turns", "metrics": ["rouge1"], "train_on_prompt": True})
    assert isinstance(task, GenerationTask)
    assert (task.text, task.metrics, task.train_on_prompt) == (("turns",), ("rouge1",), True)
