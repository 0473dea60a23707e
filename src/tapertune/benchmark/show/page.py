"""Fills docs/performance.md: the tables between its markers, and its pictures."""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import TapertuneError
from ...files import read_text, write_text
from ..schema import Session
from .figures import draw_all
from .markdown import PARTS, parts_of

PAGE = Path("docs/performance.md")


def write_page(session: Session, page: Path = PAGE) -> list[Path]:
    """Writes a session's tables, and pictures where the page has some of its kind, and returns what was written.

    Raises:
        TapertuneError: the page is not there, lacks a marker, or cannot be written.
    """
    text = read_text(page)
    parts = parts_of(session.setting)
    for name, part in parts.items():
        text = filled(text, name, part(session), page)
    pictures = draw_all(session, page.parent / "images") if parts is PARTS else []
    return [write_text(page, text), *pictures]


def filled(text: str, name: str, table: str, page: Path) -> str:
    """The text with a table between the markers of a name.

    >>> filled("<!-- a:start -->\\nold\\n<!-- a:end -->", "a", "| new |\\n", Path("x.md"))
    '<!-- a:start -->\\n\\n| new |\\n\\n<!-- a:end -->'
    """
    between = re.compile(rf"(?<=<!-- {name}:start -->\n).*?(?=<!-- {name}:end -->)", re.DOTALL)
    if len(between.findall(text)) != 1:
        raise TapertuneError(
            f"{page}: <!-- {name}:start --> and <!-- {name}:end --> must be there once, in lines alone"
        )
    return between.sub(lambda _: f"\n{table}\n", text)
