"""Hooks of the site: links that lead out of docs/ name files of the source tree, which the site does not hold."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]\n]+)\]\((?:\.\./)+[^)\n]*\)")


def on_page_markdown(markdown: str, page: Any, **others: Any) -> str:
    """Such links as their text alone."""
    depth = page.file.src_uri.count("/") + 1

    def text(found: re.Match[str]) -> str:
        return found[1] if found[0].rpartition("(")[2].count("../") >= depth else found[0]

    return _OUTSIDE.sub(text, markdown)
