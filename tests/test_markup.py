"""Texts from elsewhere in Markdown, and in messages."""

from __future__ import annotations

import pytest

from tapertune.errors import TapertuneError, bad_value, printable, shown, unknown
from tapertune.markup import block, code, escape


def test_text_is_no_markup() -> None:
    assert escape("a\n# b") == "a # b"
    assert escape("<img src=x> [a](b) `c` *d* | ~") == r"&lt;img src=x&gt; \[a\](b) \`c\` \*d\* \| \~"
    assert code("a") == "`a`" and code("a\n`` b") == "``` a `` b ```"
    assert block("x\n````\ny\n", "yaml") == "`````yaml\nx\n````\ny\n`````"


@pytest.mark.parametrize("text", ["a\nb", "a\r\n b", "\x1b[31mred", "\ud800", "\u202eright", "\x85x", "a\u2028b"])
def test_a_message_is_one_line_that_can_be_printed(text: str) -> None:
    for error in (TapertuneError(text), bad_value("x", text, text), unknown(text, text, ["a", text])):
        line = str(error)
        line.encode()
        assert len(line.splitlines()) == 1 and "\x1b" not in line and "\u202e" not in line
    assert printable("plain é") == "plain é"


def test_long_values_are_cut() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    for value in ("x" * 10**6, list(range(10**5)), 10**5000, deep, {"a": "b" * 1000}, b"c" * 10**6):
        assert len(shown(value)) <= 200
    assert shown("a\ud800") == r"'a\ud800'"
