"""Tasks whose answer is text that a model writes. Importing this imports neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar

from ..errors import bad_value, unknown
from .base import Task
from .prompts import CUTS, FORMATS, Cut, Format
from .text_metrics import TEXT_METRICS

KINDS = ("causal_lm", "seq2seq")


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How answers are generated: the same way each time, without sampling."""

    num_beams: int = field(default=1, metadata={"help": "beams; 1 takes the likeliest token at each step (greedy)"})
    max_new_tokens: int = field(default=128, metadata={"help": "tokens at which an answer is stopped"})
    min_new_tokens: int = field(default=0, metadata={"help": "tokens before which an answer does not end"})
    length_penalty: float = field(default=1.0, metadata={"help": "beams: above 1 favours long answers"})
    no_repeat_ngram_size: int = field(
        default=0, metadata={"help": "runs of so many tokens occur once; 0: as they come"}
    )
    repetition_penalty: float = field(default=1.0, metadata={"help": "above 1: tokens that occurred are less likely"})
    early_stopping: bool = field(default=False, metadata={"help": "beams: stop when there are enough ended ones"})
    use_cache: bool = field(default=True, metadata={"help": "keep keys and values of earlier tokens"})

    def __post_init__(self) -> None:
        for name, least in (
            ("num_beams", 1),
            ("max_new_tokens", 1),
            ("min_new_tokens", 0),
            ("no_repeat_ngram_size", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise bad_value(f"task.generation.{name}", value, f"a whole number, {least} or more")
        for name in ("length_penalty", "repetition_penalty"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise bad_value(f"task.generation.{name}", value, "a number")
        if self.repetition_penalty <= 0:
            raise bad_value("task.generation.repetition_penalty", self.repetition_penalty, "a number above 0")
        for name in ("early_stopping", "use_cache"):
            if not isinstance(getattr(self, name), bool):
                raise bad_value(f"task.generation.{name}", getattr(self, name), "true or false")
        if self.min_new_tokens > self.max_new_tokens:
            raise bad_value("task.generation.min_new_tokens", self.min_new_tokens, "at most max_new_tokens")

    def keywords(self) -> dict[str, Any]:
        """As ``generate`` of transformers names them; what only beams read is left out without them."""
        found = asdict(self)
        for name in ("length_penalty", "early_stopping") if self.num_beams == 1 else ():
            del found[name]
        return found


@dataclass(frozen=True, kw_only=True)
class GenerationTask(Task):
    """A task whose answer a decoder or an encoder-decoder writes.

    ``text`` names the column of the instruction, or, where the instruction is the same for all rows, of what it is
    about. Of a conversation, ``text`` is the column of its messages, whose last is the answer.

    >>> task = GenerationTask(name="t", text=("q",), label="a", metrics=("rouge1",), generation={"num_beams": 4})
    >>> task.generating.num_beams, task.generating.max_new_tokens
    (4, 128)
    """

    kind: str = field(default="causal_lm", metadata={"help": "causal_lm (decoders) or seq2seq (encoder-decoders)"})
    format: Format | None = field(
        default=None, metadata={"help": "alpaca, plain or chat; none: alpaca for decoders, plain for encoder-decoders"}
    )
    instruction: str = field(default="", metadata={"help": "the same for all rows; empty: the text is the instruction"})
    prefix: str = field(default="", metadata={"help": "what stands before the text in the plain format"})
    suffix: str = field(default="", metadata={"help": "what stands behind the text in the plain format"})
    context: str | None = field(
        default=None, metadata={"help": "column of what an instruction is about; rows may leave it out or empty"}
    )
    reference: str | None = field(
        default=None, metadata={"help": "column that answers are scored against; none: the label column"}
    )
    tools: str | None = field(
        default=None, metadata={"help": "column of the tools that a conversation may call; rows may leave it out"}
    )
    conversation: bool = field(default=False, metadata={"help": "the text column holds messages with role and content"})
    train_on_prompt: bool = field(default=False, metadata={"help": "loss on the prompt's tokens too (decoders)"})
    packing: bool = field(
        default=False,
        metadata={"help": "train on several rows in one, up to max_length tokens, none padded (decoders)"},
    )
    cut: Cut | None = field(
        default=None,
        metadata={"help": "what a long prompt loses: middle, start or end; none: middle (decoders) or end"},
    )
    max_answer_length: int = field(default=128, metadata={"help": "tokens of a training answer (encoder-decoders)"})
    cut_answers: bool = field(
        default=False, metadata={"help": "cut longer training answers; else their rows are left out (encoder-decoders)"}
    )
    decoding: Decoding = field(default=Decoding(), metadata={"help": "the task's own way of generating"})
    generation: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "changes to it: num_beams, max_new_tokens ..."}
    )

    settable: ClassVar[tuple[str, ...]] = (
        "kind", "format", "instruction", "prefix", "suffix", "train_on_prompt", "packing", "cut", "max_answer_length",
        "cut_answers", "generation",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, allowed in (("kind", KINDS), ("format", (*FORMATS, None)), ("cut", (*CUTS, None))):
            if getattr(self, name) not in allowed:
                raise unknown(f"task.{name}", getattr(self, name), [value for value in allowed if value])
        for metric in self.metrics:
            if metric not in TEXT_METRICS:
                raise unknown("metric", metric, TEXT_METRICS)
        if not self.metrics:
            raise bad_value("task.metrics", self.metrics, "one name or more")
        if self.packing and self.kind != "causal_lm":
            raise bad_value("task.packing", True, f"false where task.kind is {self.kind}: decoders read packed rows")
        if self.conversation and self.prompt_format != "chat":
            raise bad_value("task.format", self.format, "chat, since the rows are conversations")
        if not isinstance(self.max_answer_length, int) or self.max_answer_length < 2:
            raise bad_value("task.max_answer_length", self.max_answer_length, "a whole number, 2 or more")
        known = [f"task.generation.{entry.name}" for entry in fields(Decoding)]
        for key in self.generation:
            if f"task.generation.{key}" not in known:
                raise unknown("setting", f"task.generation.{key}", known)
        _ = self.generating

    @property
    def generating(self) -> Decoding:
        """How answers are generated: the task's own way with the run's changes."""
        return replace(self.decoding, **self.generation)

    @property
    def prompt_format(self) -> Format:
        return self.format or ("alpaca" if self.kind == "causal_lm" else "plain")

    @property
    def prompt_cut(self) -> Cut:
        return self.cut or ("middle" if self.kind == "causal_lm" else "end")


def prompt_completion(
    *,
    prompt: str = "prompt",
    completion: str = "completion",
    context: str | None = None,
    reference: str | None = None,
    metrics: tuple[str, ...] | list[str] = ("exact_match", "rougeL"),
    kind: str = "causal_lm",
    format: Format = "plain",
    instruction: str = "",
    prefix: str = "",
    suffix: str = "",
    train_on_prompt: bool = False,
    packing: bool = False,
    cut: Cut | None = None,
    max_answer_length: int = 128,
    cut_answers: bool = False,
    generation: Mapping[str, Any] | None = None,
) -> GenerationTask:
    """A user's own prompts and their completions, both used as they are unless ``format`` says otherwise.

    Args:
        prompt: the column of the prompt.
        completion: the column of the answer.
        context: the column of what a prompt is about, if there is one.
        reference: the column that outputs are scored against, if it is not the completion.
        metrics: names from ``TEXT_METRICS``, the main one first.
        kind, format, instruction, prefix, suffix, train_on_prompt, packing, cut, max_answer_length, cut_answers,
            generation: as ``GenerationTask`` describes them.

    >>> prompt_completion(prompt="q", completion="a").text
    ('q',)
    """
    return GenerationTask(
        name="prompt_completion",
        text=(prompt,),
        label=completion,
        context=context,
        reference=reference,
        metrics=tuple(metrics),
        kind=kind,
        format=format,
        instruction=instruction,
        prefix=prefix,
        suffix=suffix,
        train_on_prompt=train_on_prompt,
        packing=packing,
        cut=cut,
        max_answer_length=max_answer_length,
        cut_answers=cut_answers,
        generation=generation or {},
        max_length=256,
    )


def chat(
    *,
    messages: str = "messages",
    tools: str | None = "tools",
    metrics: tuple[str, ...] | list[str] = ("exact_match", "rougeL"),
    kind: str = "causal_lm",
    train_on_prompt: bool = False,
    packing: bool = False,
    cut: Cut | None = None,
    max_answer_length: int = 128,
    cut_answers: bool = False,
    generation: Mapping[str, Any] | None = None,
) -> GenerationTask:
    """A user's own conversations: lists of messages with ``role`` and ``content``, the last by the assistant. What else
    a message has (``tool_calls``, ``name`` ...) reaches the chat template as well.

    Args:
        messages: the column of the conversation.
        tools: the column of the tools it may call, as the chat template reads them: a list, or JSON text of one. Rows
            may leave it out.
        metrics: names from ``TEXT_METRICS``, the main one first.
        kind, train_on_prompt, packing, cut, max_answer_length, cut_answers, generation: as ``GenerationTask`` describes
            them.

    >>> chat(messages="turns").conversation
    True
    """
    return GenerationTask(
        name="chat",
        text=(messages,),
        label=messages,
        conversation=True,
        tools=tools,
        metrics=tuple(metrics),
        kind=kind,
        format="chat",
        train_on_prompt=train_on_prompt,
        packing=packing,
        cut=cut,
        max_answer_length=max_answer_length,
        cut_answers=cut_answers,
        generation=generation or {},
        max_length=512,
    )
