"""Checks a row's conversation: its messages, the tools that it may call, and the answer it ends with."""

from __future__ import annotations

import json
from typing import Any

from . import fields
from .fields import Row
from .generation import GenerationTask
from .json_files import parsed
from .output import plain
from .prompts import ROLES, Message


def conversation(task: GenerationTask, row: Row, *, labelled: bool) -> dict[str, Any]:
    """``messages`` up to the last prompt; ``answer`` and ``reference`` where the last message is the assistant's and
    wanted, with the whole message as ``reply`` where it is more than text; ``tools`` where the row has any.

    Raises:
        BadField: the row holds no conversation.
    """
    column = task.text[0]
    found = _list(row, column, "a list of messages")
    messages = [_message(column, number, message) for number, message in enumerate(found, 1)]
    if labelled and messages[-1]["role"] != "assistant":
        raise fields.bad(column, messages[-1], "a list whose last message is the assistant's, since that is the answer")
    reply = messages.pop() if messages[-1]["role"] == "assistant" else None
    if not any(message["role"] == "user" for message in messages):
        raise fields.bad(column, found, "a list with a message of the user before the answer")
    example: dict[str, Any] = {"messages": messages}
    if labelled and reply is not None:
        answer = reply["content"] or json.dumps(reply["tool_calls"], ensure_ascii=False)
        example |= {"answer": answer, "reference": answer}
        example |= {"reply": reply} if len(reply) > 2 else {}
    if task.tools is not None and row.get(task.tools):
        example["tools"] = _tools(row, task.tools)
    return example


def _message(column: str, number: int, message: Any) -> Message:
    place = f"{column}, message {number}"
    allowed = "an object with a role (system, user, assistant) and content that is not empty, or a tool's answer"
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise fields.bad(place, message, allowed)
    # Columns of messages have all the fields that one of them has; those of the others are null.
    kept = {name: _json(value) for name, value in message.items() if value is not None}
    calls = kept.pop("tool_calls", None) or []
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise fields.bad(f"{place}, tool_calls", calls, "a list of objects")
    content = _content(kept.get("content", ""))
    may_be_empty = message["role"] == "tool" or (message["role"] == "assistant" and bool(calls))
    if content is None or not (content.strip() or may_be_empty):
        raise fields.bad(place, message, allowed)
    if message["role"] == "system" and number > 1:
        raise fields.bad(place, message, "the user's or the assistant's: the system's is first")
    return {**kept, "content": content, **({"tool_calls": calls} if calls else {})}


def _content(value: Any) -> str | None:
    """A message's text, which may come in parts; None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in value):
        texts = [part.get("text") for part in value]
        return "".join(texts) if all(isinstance(text, str) for text in texts) else None
    return None


def _tools(row: Row, column: str) -> list[Any]:
    tools = _list(row, column, "a list of tools, objects each")
    if not all(isinstance(tool, dict) for tool in tools):
        raise fields.bad(column, tools, "a list of tools, objects each")
    return _json(tools)


def _list(row: Row, column: str, allowed: str) -> list[Any]:
    """A field's list, or that of its JSON text, which is how columns are kept whose rows differ in form."""
    value = found = fields.value(row, column)
    if isinstance(value, str):
        try:
            found = parsed(value)
        except ValueError:  # JSONDecodeError and BadField are
            found = None
    if not isinstance(found, list) or not found:
        raise fields.bad(column, value, allowed)
    return found


def _json(value: Any) -> Any:
    """The same in values that JSON has: Parquet's dates are no such."""
    return value if isinstance(value, str) else json.loads(json.dumps(value, default=plain))
