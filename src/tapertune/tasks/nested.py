"""SQuAD's own layout, articles that hold paragraphs that hold questions, as one row a question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .fields import BadField


def flattened(entry: Any) -> Iterator[dict[str, Any] | BadField]:
    """The rows of an entry of a JSON file: those of an article's questions, or the entry itself where it is none.

    >>> article = {"title": "Tea", "paragraphs": [{"context": "Hot.", "qas": [{"id": "1", "question": "How?"}]}]}
    >>> list(flattened(article))
    [{'title': 'Tea', 'context': 'Hot.', 'id': '1', 'question': 'How?'}]
    """
    if not isinstance(entry, dict):
        yield BadField("it must be a JSON object, with a field a column")
    elif "paragraphs" not in entry:
        yield entry
    else:
        title = {"title": entry["title"]} if "title" in entry else {}
        for paragraph in _objects(entry, "paragraphs"):
            yield from [paragraph] if isinstance(paragraph, BadField) else _questions(title, paragraph)


def _questions(title: dict[str, Any], paragraph: dict[str, Any]) -> Iterator[dict[str, Any] | BadField]:
    if "context" not in paragraph:
        yield BadField("a paragraph has no 'context'")
        return
    for question in _objects(paragraph, "qas"):
        where = {**title, "context": paragraph["context"]}
        yield question if isinstance(question, BadField) else {**where, **question}


def _objects(parent: dict[str, Any], name: str) -> Iterator[dict[str, Any] | BadField]:
    found = parent.get(name)
    if not isinstance(found, list):
        yield BadField(f"{name!r} must be a list of JSON objects")
        return
    for each in found:
        yield each if isinstance(each, dict) else BadField(f"{name!r} must be a list of JSON objects")
