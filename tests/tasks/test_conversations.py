"""All that a conversation has reaches the chat template, or one line says why not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tasks.tiny_text import TEMPLATE, tokenizer

from tapertune.errors import TapertuneError
from tapertune.tasks.fields import BadField
from tapertune.tasks.generation import chat
from tapertune.tasks.kinds import get_kind

CAUSAL, TASK = get_kind("causal_lm"), chat()
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "add 1 and 2"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "add", "content": "3"},
    {"role": "assistant", "content": "the sum is 3"},
]
# Shows tools, calls and the names of those who answer.
TOOL_TEMPLATE = (
    "{% if tools %}<|turn|> system {{ tools | tojson }} <|end|> \n{% endif %}"
    "{% for m in messages %}<|turn|> {{ m['role'] }} {{ m['name'] or '' }} {{ m['content'] }}"
    "{% for c in m['tool_calls'] or [] %} {{ c['function']['name'] }} {{ c['function']['arguments']['b'] }}{% endfor %}"
    " <|end|> \n{% endfor %}{% if add_generation_prompt %}<|turn|> assistant {% endif %}"
)


def made(template: str | None = TOOL_TEMPLATE) -> Any:
    return tokenizer(chat=template, end="<|end|>")


def encoded(row: dict[str, Any], *, train: bool, template: str | None = TOOL_TEMPLATE, length: int = 400) -> Any:
    return CAUSAL.encode(TASK, [CAUSAL.check(TASK, row)], made(template), length, train=train)


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)], ids=["list", "text"])
@pytest.mark.parametrize("train", [True, False])
def test_tools_reach_the_template(tools: Any, train: bool) -> None:
    example = CAUSAL.check(TASK, {"messages": TALK, "tools": tools})
    assert example["tools"] == TOOLS and example["messages"][1]["tool_calls"] == [CALL]
    with_tools = encoded({"messages": TALK, "tools": tools}, train=train).rows[0]["input_ids"]
    without = encoded({"messages": TALK}, train=train).rows[0]["input_ids"]
    assert len(with_tools) > len(without) and with_tools[-5:] == without[-5:]
    written = made().apply_chat_template(TALK[:3], TOOLS, tokenize=False, add_generation_prompt=True)
    prompt = made()(written, add_special_tokens=False)["input_ids"]
    assert with_tools[: len(prompt)] == prompt


def test_calls_are_learned_and_scored_as_the_template_writes_them() -> None:
    [row] = encoded({"messages": TALK[:2], "tools": TOOLS}, train=True).rows
    learned = [number for number, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert made().decode(learned) == "add 2 <|end|>"
    found = encoded({"messages": TALK[:2], "tools": TOOLS}, train=False)
    assert found.examples[0]["reference"] == "add 2"


@pytest.mark.parametrize("empty", [None, [], ""])
def test_rows_without_tools(empty: Any) -> None:
    assert "tools" not in CAUSAL.check(TASK, {"messages": TALK, "tools": empty})
    assert "tools" not in CAUSAL.check(chat(tools=None), {"messages": TALK, "tools": TOOLS})
    assert CAUSAL.check(chat(tools="functions"), {"messages": TALK, "functions": TOOLS})["tools"] == TOOLS


@pytest.mark.parametrize("template", [TEMPLATE, None])
@pytest.mark.parametrize("row", [{"messages": TALK[:1] + TALK[3:], "tools": TOOLS}, {"messages": TALK}])
def test_what_a_template_would_pass_over_is_refused(template: str | None, row: dict[str, Any]) -> None:
    with pytest.raises(TapertuneError, match=r"a conversation has (tools|calls of tools), which the tokenizer's chat"):
        encoded(row, train=True, template=template)


def test_content_in_parts_and_other_fields_of_a_message() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    row = {"messages": [{"role": "user", "name": "ann", "content": parts, "tool_calls": None}, TALK[-1]]}
    assert CAUSAL.check(TASK, row)["messages"] == [{"role": "user", "name": "ann", "content": "one two"}]
    assert CAUSAL.check(TASK, {"messages": json.dumps(row["messages"])}) == CAUSAL.check(TASK, row)


def test_an_exchange_goes_with_the_answers_of_its_tools() -> None:
    talk = [*TALK, {"role": "user", "content": "add 3"}, {"role": "assistant", "content": "6"}]
    whole = encoded({"messages": talk}, train=True)
    short = encoded({"messages": talk}, train=True, length=len(whole.rows[0]["input_ids"]) - 1)
    assert short.truncated == 1
    assert "tool" not in made().decode(short.rows[0]["input_ids"])
    assert made().decode(short.rows[0]["input_ids"]).startswith("<|turn|> user add 3")


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"role": "user", "content": [{"type": "image", "url": "x"}]}, "content that is not empty"),
        ({"role": "user", "content": [{"type": "text", "text": None}]}, "content that is not empty"),
        ({"role": "user", "content": {"a": 1}}, "content that is not empty"),
        ({"role": "user", "tool_calls": [CALL]}, "content that is not empty"),
        ({"role": ["user"], "content": "a"}, "content that is not empty"),
        ({"role": "assistant", "content": "", "tool_calls": "add"}, "tool_calls' is 'add'; it must be a list of obj"),
        ({"role": "assistant", "content": "", "tool_calls": []}, "content that is not empty"),
    ],
)
def test_messages_of_other_forms(message: dict[str, Any], error: str) -> None:
    with pytest.raises(BadField, match=error):
        CAUSAL.check(TASK, {"messages": [{"role": "user", "content": "a"}, message, TALK[-1]]})


@pytest.mark.parametrize("tools", ["add", "[1]", [1], {"a": 1}, "[" * 10_000, 7])
def test_tools_of_other_forms(tools: Any) -> None:
    with pytest.raises(BadField, match=r"field 'tools' is .*; it must be a list of tools"):
        CAUSAL.check(TASK, {"messages": TALK, "tools": tools})


def test_an_encoder_decoder_calls_no_tools() -> None:
    task = chat(kind="seq2seq")
    kind = get_kind("seq2seq")
    example = kind.check(task, {"messages": TALK[:2], "tools": TOOLS})
    with pytest.raises(TapertuneError, match="an answer that calls tools is for decoders"):
        kind.encode(task, [example], made(), 400, train=True)
