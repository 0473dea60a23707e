"""What travels with an adapter beside its weights: the tokenizer's files, and what training found out of its task."""

from __future__ import annotations

import shutil
from pathlib import Path

from .folder import check_inside

TASK_FILE = "task.json"
"""Beside an adapter that a run has written: what training found out of its task, among it ``labels``."""

_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja",
)  # fmt: skip


def copy_side_files(adapter_dir: Path, base: str | None, out: Path, *, tokenizer: bool = True) -> None:
    """Copies what the adapter's folder has of these files; the tokenizer's from the base where it has none.

    Args:
        adapter_dir: the adapter's folder.
        base: the base model: a folder, or a name on the Hub, of which only what is in the cache is taken.
        out: an existing folder; files of the same name are replaced.
        tokenizer: whether the tokenizer's files are copied.

    Raises:
        TapertuneError: a file is a link out of its folder, or no regular file.
    """
    found = {name: adapter_dir / name for name in _TOKENIZER if tokenizer and (adapter_dir / name).exists()}
    if tokenizer and not found and base is not None:
        found = _of_base(base)
    if (adapter_dir / TASK_FILE).exists():
        found[TASK_FILE] = adapter_dir / TASK_FILE
    for name, path in found.items():
        check_inside(path)
        shutil.copyfile(path, out / name)


def _of_base(base: str) -> dict[str, Path]:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(base).is_dir():
        return {name: Path(base) / name for name in _TOKENIZER if (Path(base) / name).exists()}
    try:
        cached = {name: try_to_load_from_cache(base, name) for name in _TOKENIZER}
    except HFValidationError:  # no name of the Hub's, and no folder here
        return {}
    return {name: Path(path) for name, path in cached.items() if isinstance(path, str)}
