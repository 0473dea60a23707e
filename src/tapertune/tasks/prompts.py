"""How a row becomes tokens: the prompt's format, where the answer begins, and what gives way when it is too long.

Prompt and answer are tokenised apart and joined, so that the border between them is exact, and the tokens a model is
given when it generates are those that stood before the answer in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import TapertuneError

Format = Literal["alpaca", "plain", "chat"]
Cut = Literal["middle", "start", "end"]
Message = dict[str, Any]  # role, content, and what else the template reads: tool_calls, name ...
Piece = tuple[str, bool]  # text, and whether it is an answer

FORMATS: tuple[Format, ...] = ("alpaca", "plain", "chat")
CUTS: tuple[Cut, ...] = ("middle", "start", "end")
ROLES = ("system", "user", "assistant", "tool")
IGNORED = -100  # labels that no loss is computed for
LEAST_PROMPT = 16  # an example whose prompt would be cut to fewer tokens teaches nothing

# The format of Stanford Alpaca (Taori et al., 2023), which LLM-Adapters (Hu et al., 2023) uses. The latter's released
# code has the template indented by sixteen spaces and a linter's remark in it; both are left out here.
_ALPACA = (
    "Below is an instruction that describes a task{pairing}. "
    "Write a response that appropriately completes the request.\n\n"
)
_PAIRING = ", paired with an input that provides further context"
NEXT_TURN = "\n### Instruction:"  # in this format, what is generated from here on is no answer


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """One example as a decoder reads it.

    Attributes:
        ids: prompt and answer; the prompt alone where it is to be generated from.
        answer: for each id, whether it belongs to an answer.
        cut: whether the prompt lost tokens or turns.
    """

    ids: list[int]
    answer: list[bool]
    cut: bool


def alpaca(instruction: str, context: str = "") -> str:
    """The prompt of one instruction.

    >>> print(alpaca("Add 1 and 2."))
    Below is an instruction that describes a task. Write a response that appropriately completes the request.
    <BLANKLINE>
    ### Instruction:
    Add 1 and 2.
    <BLANKLINE>
    ### Response:
    <BLANKLINE>
    """
    middle = f"### Input:\n{context}\n\n" if context else ""
    head = _ALPACA.format(pairing=_PAIRING if context else "")
    return f"{head}### Instruction:\n{instruction}\n\n{middle}### Response:\n"


def plain(instruction: str, context: str = "") -> str:
    """The instruction and its context as they are, the one before the other.

    >>> plain("summarize: ", "Tom: hi")
    'summarize: Tom: hi'
    """
    return instruction + context


def messages_of(example: dict[str, Any], *, answered: bool) -> list[Message]:
    """An example as a conversation: its own, or the instruction as the user's turn and the answer as the reply."""
    if "messages" in example:
        return [*example["messages"], *([_reply(example)] if answered else [])]
    asked = "\n\n".join(part for part in (example["instruction"], example["context"]) if part)
    return [{"role": "user", "content": asked}, *([_reply(example)] if answered else [])]


def _reply(example: dict[str, Any]) -> Message:
    return example.get("reply") or {"role": "assistant", "content": example["answer"]}


def pieces(example: dict[str, Any], format: Format, tokenizer: Any, *, answered: bool) -> list[Piece]:
    """An example's text in pieces, prompts and answers by turns, the prompt first.

    Args:
        example: ``instruction``, ``context`` and ``answer``, or ``messages`` (up to the last prompt) and ``answer``,
            with ``reply`` in its place where that is more than text, and ``tools``.
        format: of the prompt.
        tokenizer: its chat template is used for chats; without one, turns are marked as in the Alpaca format.
        answered: with the answer; else the prompt alone.
    """
    if format == "chat" or "messages" in example:
        messages, tools = messages_of(example, answered=answered), example.get("tools")
        check_template(tokenizer, messages, tools)
        return _templated(messages, tokenizer, tools) if tokenizer.chat_template else _marked(messages)
    make = alpaca if format == "alpaca" else plain
    prompt = make(example["instruction"], example["context"])
    return [(prompt, False), *([(example["answer"], True)] if answered else [])]


def _marked(messages: Sequence[Message]) -> list[Piece]:
    """Turns behind their roles, for tokenizers without a template."""
    found: list[Piece] = []
    prompt = ""
    for message in messages:
        if message["role"] == "assistant":
            found += [(f"{prompt}### Assistant:\n", False), (message["content"], True)]
            prompt = "\n\n"
        else:
            prompt += f"### {message['role'].capitalize()}:\n{message['content']}\n\n"
    return found if messages[-1]["role"] == "assistant" else [*found, (f"{prompt}### Assistant:\n", False)]


def _templated(messages: Sequence[Message], tokenizer: Any, tools: list[Any] | None = None) -> list[Piece]:
    """The template's text, cut where answers begin and end. Behind an end-of-turn token nothing is the answer's."""
    found: list[Piece] = []
    done = ""
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(messages[:number], tokenizer, tools, prompt=True)
        after = _render(messages[: number + 1], tokenizer, tools)
        if not before.startswith(done) or not after.startswith(before):
            raise TapertuneError(
                "the tokenizer's chat template rewrites earlier turns, so that answers cannot be told from prompts: "
                "set task.format to alpaca or plain, or use conversations of one answer"
            )
        answer = after[len(before) :]
        end = answer.rfind(tokenizer.eos_token) if tokenizer.eos_token else -1
        answer = answer if end < 0 else answer[: end + len(tokenizer.eos_token)]
        found += [(before[len(done) :], False), (answer, True)]
        done = before + answer
    if messages[-1]["role"] != "assistant":
        found.append((_render(messages, tokenizer, tools, prompt=True)[len(done) :], False))
    return found


def _render(
    messages: Sequence[Message], tokenizer: Any, tools: list[Any] | None = None, *, prompt: bool = False
) -> str:
    given = {"tools": tools} if tools else {}
    try:
        return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt, **given)
    except Exception as error:  # a template is a program of the model's authors: it raises what it likes
        raise TapertuneError(f"the tokenizer's chat template refuses a conversation: {error}") from error


def check_template(tokenizer: Any, messages: Sequence[Message], tools: list[Any] | None) -> None:
    """Does the tokenizer's chat template show all of a conversation? Templates pass over what they do not know.

    Raises:
        TapertuneError: there are tools, or calls of them, that it does not show.
    """
    calls = any(message.get("tool_calls") or message["role"] == "tool" for message in messages)
    for there, name, what in ((tools, "tools", "tools"), (calls, "tool", "calls of tools")):
        if there and not (tokenizer.chat_template and name in tokenizer.get_chat_template(None, tools)):
            raise TapertuneError(
                f"a conversation has {what}, which the tokenizer's chat template does not show: use a model whose"
                " template does, or leave them out (task.tools: null for the tools)"
            )


def decoder_tokens(
    example: dict[str, Any],
    format: Format,
    tokenizer: Any,
    max_length: int,
    *,
    answered: bool,
    cut: Cut = "middle",
) -> Tokens | None:
    """An example's tokens for a decoder, at most ``max_length``; None when its answer leaves no room for a prompt.

    An answer is never cut. Of a conversation that is too long the oldest exchanges go first; what is then too long
    loses tokens of its prompt.
    """
    templated = bool(tokenizer.chat_template) and (format == "chat" or "messages" in example)
    shortened = False
    while True:
        texts = pieces(example, format, tokenizer, answered=answered)
        parts = [(text_ids(text, tokenizer), answer) for text, answer in texts]
        start = [] if templated else around(tokenizer)[0]  # templates write their own
        parts = _ended(parts, tokenizer.eos_token_id, every=not templated)
        over = len(start) + sum(len(ids) for ids, _ in parts) - max_length
        shorter = _without_oldest(example) if over > 0 else None
        if shorter is None:
            break
        example, shortened = shorter, True
    if over > 0:
        room = len(parts[0][0]) - over
        if answered and room < min(LEAST_PROMPT, len(parts[0][0])):
            return None
        parts[0] = (cut_ids(parts[0][0], room, cut), False)
    ids = [*start, *(number for part, _ in parts for number in part)]
    mask = [False] * len(start) + [answer for part, answer in parts for _ in part]
    return Tokens(ids=ids, answer=mask, cut=shortened or over > 0)


def _ended(parts: list[tuple[list[int], bool]], end: int | None, *, every: bool) -> list[tuple[list[int], bool]]:
    """The pieces with the end token behind each answer; a template ends earlier turns in its own way."""
    return [
        ([*ids, end], True)
        if answer and end is not None and ids[-1:] != [end] and (every or number == len(parts) - 1)
        else (ids, answer)
        for number, (ids, answer) in enumerate(parts)
    ]


def text_ids(text: str, tokenizer: Any) -> list[int]:
    """A text's tokens alone."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens that this tokenizer puts before and behind a text, such as ``<s>`` and ``</s>``."""
    whole = list(tokenizer("a", verbose=False)["input_ids"])
    bare = text_ids("a", tokenizer)
    for size in range(len(whole) - len(bare) + 1):
        if whole[size : size + len(bare)] == bare:
            return whole[:size], whole[size + len(bare) :]
    return [], []


def _without_oldest(example: dict[str, Any]) -> dict[str, Any] | None:
    """A conversation without its oldest exchange (the system's turn stays); None when there is one exchange only."""
    messages = example.get("messages", [])
    replies = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if not replies:
        return None
    kept = [message for message in messages[: replies[0]] if message["role"] == "system"]
    # A reply that calls tools goes with what they answered.
    later = range(replies[0] + 1, len(messages))
    asked = next((number for number in later if messages[number]["role"] == "user"), None)
    return None if asked is None else {**example, "messages": [*kept, *messages[asked:]]}


def cut_ids(ids: list[int], room: int, how: Cut) -> list[int]:
    """``room`` of the ids: without the middle ones, the first, or the last.

    >>> cut_ids([1, 2, 3, 4, 5], 3, "middle"), cut_ids([1, 2, 3], 2, "start"), cut_ids([1, 2, 3], 2, "end")
    ([1, 2, 5], [2, 3], [1, 2])
    """
    if how == "end":
        return ids[:room]
    first = (room + 1) // 2 if how == "middle" else 0
    return ids[:first] + ids[len(ids) - (room - first) :]


def labels_of(tokens: Tokens, *, everything: bool = False) -> list[int]:
    """Labels for training: the ids where the answer is, ``IGNORED`` elsewhere; with ``everything``, all ids."""
    return [i if everything or mine else IGNORED for i, mine in zip(tokens.ids, tokens.answer, strict=True)]


def source_text(example: dict[str, Any], format: Format, tokenizer: Any) -> str:
    """What an encoder-decoder's encoder reads."""
    return "".join(text for text, _ in pieces(example, format, tokenizer, answered=False))
