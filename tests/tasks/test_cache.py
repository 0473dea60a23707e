from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapertune.tasks import TASKS, cache
from tapertune.tasks.encode import encode

TASK = TASKS["rte"]
EXAMPLES = [{"texts": ["good " * (n % 5 + 1), "rain"], "label": n % 2} for n in range(20)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from train.tiny_run import write_model
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(write_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "LEAST", 10)
    return tmp_path / "cache"


def test_what_is_read_back_is_what_was_made(tokenizer: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cache.encode_cached(TASK, EXAMPLES, tokenizer, 6)
    assert [path.suffix for path in folder.iterdir()] == [".parquet"]
    with monkeypatch.context() as patch:
        patch.setattr(cache, "encode", None)  # is not called
        kept = cache.encode_cached(TASK, EXAMPLES, tokenizer, 6)
    direct = encode(TASK, EXAMPLES, tokenizer, 6, train=True)
    for found in (made, kept):
        assert (found.rows, found.owners, found.truncated) == (direct.rows, direct.owners, direct.truncated)
    assert direct.truncated > 0


def test_rows_left_out_are_known_when_read_back(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task: Any = replace(TASKS["squad"], stride=1, max_question=2)  # pyright: ignore[reportCallIssue]
    contexts = ["tea", "tea " * 19 + "tea", "rain"] * 4
    examples = [{"question": "good", "context": text, "golds": [text], "start": 0} for text in contexts]
    made = cache.encode_cached(task, examples, tokenizer, 12)
    monkeypatch.setattr(cache, "encode", None)  # is not called
    kept = cache.encode_cached(task, examples, tokenizer, 12)
    assert (kept.rows, kept.owners, kept.left_out) == (made.rows, made.owners, made.left_out)
    assert made.left_out == 4


def test_numbers_stay_numbers(tokenizer: Any) -> None:
    task = TASKS["stsb"]
    examples = [{"texts": ["a", "b"], "label": n / 19} for n in range(20)]
    cache.encode_cached(task, examples, tokenizer, 8)
    kept = cache.encode_cached(task, examples, tokenizer, 8)
    assert [row["labels"] for row in kept.rows] == [n / 19 for n in range(20)]


def test_every_part_is_of_the_key(tokenizer: Any) -> None:
    changed = [dict(EXAMPLES[0], label=1), *EXAMPLES[1:]]
    keys = {
        cache.key(TASK, EXAMPLES, tokenizer, 6),
        cache.key(TASK, EXAMPLES, tokenizer, 7),
        cache.key(TASK, changed, tokenizer, 6),
        cache.key(TASK, EXAMPLES[:-1], tokenizer, 6),
        cache.key(replace(TASK, labels=("a", "b")), EXAMPLES, tokenizer, 6),
    }
    assert len(keys) == 5
    assert cache.key(TASK, [dict(example) for example in EXAMPLES], tokenizer, 6) in keys


def test_a_damaged_file_is_made_anew(tokenizer: Any, folder: Path) -> None:
    cache.encode_cached(TASK, EXAMPLES, tokenizer, 6)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert len(cache.encode_cached(TASK, EXAMPLES, tokenizer, 6)) == 20
    assert path.stat().st_size > 100


def test_few_rows_are_not_kept(tokenizer: Any, folder: Path) -> None:
    cache.encode_cached(TASK, EXAMPLES[:9], tokenizer, 6)
    assert not folder.exists()


def test_a_failed_write_leaves_nothing(tokenizer: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet

    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(pyarrow.parquet, "write_table", fail)
    assert len(cache.encode_cached(TASK, EXAMPLES, tokenizer, 6).rows) == 20
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "changed", "other"])
def test_damaged_rows_are_made_anew(
    tokenizer: Any, folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    import pyarrow
    import pyarrow.parquet

    made = cache.encode_cached(TASK, EXAMPLES, tokenizer, 6)
    (path,) = folder.iterdir()
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "changed":
        path.write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])
    else:
        pyarrow.parquet.write_table(pyarrow.table({"input_ids": [[1]]}), path)
    again = cache.encode_cached(TASK, EXAMPLES, tokenizer, 6)
    assert again.rows == made.rows and "cannot be used" in caplog.text
    caplog.clear()
    assert cache.encode_cached(TASK, EXAMPLES, tokenizer, 6).rows == made.rows and not caplog.text


def test_a_cache_that_cannot_be_written_is_done_without(
    tokenizer: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write_text("a file in the folder's place")
    assert len(cache.encode_cached(TASK, EXAMPLES, tokenizer, 6).rows) == 20
    assert "encoded rows are not kept in" in caplog.text
