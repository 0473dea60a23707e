"""Texts from elsewhere in Markdown, shown as they are: a run's name is no heading, no link and no HTML."""

from __future__ import annotations

import re


def escape(text: str) -> str:
    r"""Text that Markdown shows as it is: no markup, no HTML, one line.

    >>> escape("a\n# b <i> *c*")
    'a # b &lt;i&gt; \\*c\\*'
    """
    flat = " ".join(text.split())
    marked = re.sub(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w))", r"\\\1", flat)
    return marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: str) -> str:
    """Text as code in a line, whatever it holds.

    >>> code("a"), code("a ` b")
    ('`a`', '`` a ` b ``')
    """
    flat = " ".join(text.split())
    if "`" not in flat:
        return f"`{flat}`"
    fence = _fence(flat, 1)
    return f"{fence} {flat} {fence}"


def block(text: str, language: str = "") -> str:
    """Lines as a block of code, whatever they hold."""
    fence = _fence(text, 3)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _fence(text: str, least: int) -> str:
    """More ticks than the text has in a row."""
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))
