"""Secrets (tokens, passwords, keys) kept out of what is written, shown and published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "<hidden>"
# Names that end so hold secrets: hub_token, HF_TOKEN, wandb_api_key, client-secret.
_NAME = re.compile(
    r"(^|[_.\- ])(token|passw(or)?d|passphrase|secret|api_?key|access_?key|private_?key|credentials?)s?$", re.IGNORECASE
)
# These count or name tokens of a text.
_TEXT = re.compile(
    r"(^|[_.\- ])(bos|eos|pad|unk|sep|cls|mask|start|end|image|audio|video|special|invocation|stop|input|output|num|new"
    r"|max|min|per|by)_tokens?$|^tokens$",
    re.IGNORECASE,
)
# Values that are secrets whatever their name: tokens of Hugging Face, OpenAI, GitHub and Weights & Biases' forms, and
# the user and password of an address.
_VALUE = re.compile(
    r"\b(hf_|api_org_|sk-|ghp_|gho_|github_pat_|glpat-)[A-Za-z0-9_\-]{16,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)


def is_secret(name: str) -> bool:
    """Whether a setting of this name holds a secret.

    >>> [is_secret(name) for name in ("training.hub_token", "eos_token", "max_new_tokens", "api_key")]
    [True, False, False, True]
    """
    return bool(_NAME.search(name)) and not _TEXT.search(name)


def hide_secrets(value: Any, name: str = "") -> Any:
    """Nested settings again, with what is secret in them replaced by ``HIDDEN``; what is empty or a number stays.

    >>> hide_secrets({"training": {"hub_token": "abc", "seed": 1}})
    {'training': {'hub_token': '<hidden>', 'seed': 1}}
    """
    if isinstance(value, Mapping):
        return {key: hide_secrets(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([hide_secrets(inner, name) for inner in value])
    if not isinstance(value, str | bytes):
        return value
    if value and is_secret(name):
        return HIDDEN
    return hide_in_text(value) if isinstance(value, str) else value


def hide_in_text(text: str) -> str:
    """A text with whatever looks like a secret in it replaced.

    >>> hide_in_text("refused: hf_abcdefghijklmnopqrst is no token")
    'refused: <hidden> is no token'
    """
    return _VALUE.sub(HIDDEN, text)
