"""Encoded training rows, kept by what they were made from: rows, task, tokenizer and length.

They lie in ``TAPERTUNE_CACHE``, else in ``~/.cache/tapertune``; deleting them costs only time, and a
folder that is full, read-only or damaged is done without.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import TapertuneError
from ..files import whole_file
from .base import Task
from .encode import encode
from .kinds import Encoded, Example

FOLDER = "TAPERTUNE_CACHE"
LEAST = 1000  # fewer rows are encoded as fast as they are read back
_VERSION = 2
_OWNER, _COUNTS = "__owner", b"counts"
_log = logging.getLogger("tapertune")
_COUNTED = ("truncated", "answers_cut", "empty", "left_out")


def encode_cached(task: Task, examples: Sequence[Example], tokenizer: Any, max_length: int) -> Encoded:
    """``encode`` for training, or what it returned before for the same rows."""
    if len(examples) < LEAST:
        return encode(task, examples, tokenizer, max_length, train=True)
    path = folder() / f"{key(task, examples, tokenizer, max_length)}.parquet"
    kept = _read(path, examples)
    if kept is not None:
        return kept
    encoded = encode(task, examples, tokenizer, max_length, train=True)
    _write(path, encoded)
    return encoded


def folder() -> Path:
    """Where encoded rows are kept."""
    return Path(os.environ.get(FOLDER) or Path.home() / ".cache" / "tapertune").expanduser()


def key(task: Task, examples: Sequence[Example], tokenizer: Any, max_length: int) -> str:
    """A digest of all that the encoding depends on."""
    import tokenizers
    import transformers

    vocabulary = json.dumps(_vocabulary(tokenizer), sort_keys=True)
    made_by = [_VERSION, transformers.__version__, tokenizers.__version__, type(tokenizer).__name__]
    template = getattr(tokenizer, "chat_template", None)
    settings = [max_length, tokenizer.padding_side, tokenizer.special_tokens_map, template, asdict(task)]
    digest = hashlib.sha256(json.dumps([made_by, settings], sort_keys=True, default=str).encode())
    digest.update(vocabulary.encode())
    for example in examples:
        digest.update(json.dumps(example, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _vocabulary(tokenizer: Any) -> dict[str, Any]:
    """All of a tokenizer but what its last call has left in it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer.get_vocab()
    return {name: part for name, part in json.loads(backend.to_str()).items() if name not in ("truncation", "padding")}


def _read(path: Path, examples: Sequence[Example]) -> Encoded | None:
    import pyarrow.lib
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, page_checksum_verification=True)
        rows = table.to_pylist()
        owners = [row.pop(_OWNER) for row in rows]
        counts = json.loads((table.schema.metadata or {})[_COUNTS])
        return Encoded(rows=rows, examples=examples, owners=owners, **{name: counts[name] for name in _COUNTED})
    except FileNotFoundError:
        return None
    except (OSError, pyarrow.lib.ArrowException, KeyError, ValueError, TypeError) as error:
        # not whole, not ours, or not readable: it is made anew
        _log.warning("encoded rows in %s cannot be used (%s): they are made anew", path, _first_line(error))
        return None


def _write(path: Path, encoded: Encoded) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{**row, _OWNER: owner} for row, owner in zip(encoded.rows, encoded.owners, strict=True)]
    counts = json.dumps({name: getattr(encoded, name) for name in _COUNTED})
    table = pyarrow.Table.from_pylist(rows).replace_schema_metadata({_COUNTS: counts.encode()})
    try:
        with whole_file(path, parents=True) as temporary:
            pyarrow.parquet.write_table(table, temporary, write_page_checksum=True)
    except TapertuneError as error:
        _log.warning("encoded rows are not kept in %s: %s", path.parent, _first_line(error))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
