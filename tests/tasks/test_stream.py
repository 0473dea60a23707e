from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from tapertune.errors import TapertuneError
from tapertune.tasks import TASKS
from tapertune.tasks.counts import Counts
from tapertune.tasks.files import open_table
from tapertune.tasks.stream import Stream

TASK = replace(TASKS["sst2"], max_length=16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from train.tiny_run import write_model

    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


def write(path: Path, count: int, bad: tuple[int, ...] = ()) -> Path:
    words = ["good", "bad", "tea", "rain", "warm", "cold"]
    with path.open("w") as file:
        for n in range(count):
            text = None if n in bad else " ".join(words[(n // 6**k) % 6] for k in range(5))
            file.write(json.dumps({"sentence": text, "label": n % 2}) + "\n")
    return path


def stream(tokenizer: Any, path: Path, **changes: Any) -> Stream:
    return Stream(TASK, open_table(path), tokenizer, **{"batch": 4, "seed": 1, **changes})


def batches(rows: Stream, workers: int) -> list[list[tuple[int, ...]]]:
    loader = DataLoader(rows, batch_size=4, num_workers=workers, collate_fn=lambda rows: rows)
    return [[(*row["input_ids"], row["labels"]) for row in batch] for batch in loader]


def test_workers_change_nothing_in_the_order(tokenizer: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", 1500)
    none, two = (batches(stream(tokenizer, path), workers) for workers in (0, 2))
    assert none == two
    assert sum(len(batch) for batch in none) == 1500


def test_the_order_is_of_seed_and_pass(tokenizer: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", 300)
    first = batches(stream(tokenizer, path), 0)
    assert first == batches(stream(tokenizer, path), 0)
    other = stream(tokenizer, path)
    other.set_epoch(1)
    again = batches(other, 0)
    assert again != first
    assert sorted(chain.from_iterable(again)) == sorted(chain.from_iterable(first))


def test_bad_rows_are_counted_and_too_many_stop(tokenizer: Any, tmp_path: Path) -> None:
    few = stream(tokenizer, write(tmp_path / "a.jsonl", 1200, bad=(5, 700)))
    assert sum(map(len, batches(few, 0))) == 1198
    assert (few.counts, few.notes()) == (
        Counts(rows=1200, bad=2),
        [f"{tmp_path / 'a.jsonl'}: 2 of 1200 rows read cannot be used and were left out"],
    )
    many = write(tmp_path / "b.jsonl", 50, bad=(5, 7))
    with pytest.raises(TapertuneError, match=r"b.jsonl, line 6: field 'sentence' is None.* 2 of 50 rows read so far"):
        batches(stream(tokenizer, many), 0)
    assert sum(map(len, batches(stream(tokenizer, many, skip_bad_rows=True), 0))) == 48


def test_cut_rows_are_told_also_from_a_worker(tokenizer: Any, tmp_path: Path) -> None:
    short = replace(TASK, max_length=4)
    rows = Stream(short, open_table(write(tmp_path / "a.jsonl", 40)), tokenizer, batch=4, seed=1)
    batches(rows, 2)
    (note,) = rows.notes()
    assert note.endswith("40 of 40 rows were longer than task.max_length (4 tokens) and were cut")


def questions(path: Path, contexts: list[str]) -> Any:
    with path.open("w") as file:
        for context in contexts:
            answers = {"text": [context], "answer_start": [0]}
            file.write(json.dumps({"question": "good", "context": context, "answers": answers}) + "\n")
    return open_table(path)


def test_rows_whose_answer_does_not_fit_are_told(tokenizer: Any, tmp_path: Path) -> None:
    task: Any = replace(TASKS["squad"], max_length=12, max_question=2, stride=1)  # pyright: ignore[reportCallIssue]
    table = questions(tmp_path / "a.jsonl", ["tea", "tea " * 19 + "tea", "rain"])
    rows = Stream(task, table, tokenizer, batch=4, seed=1)
    rows.check()
    assert rows.counts == Counts(rows=0)  # nothing is counted before training
    assert len(list(rows)) == 2
    assert rows.counts == Counts(rows=3, left_out=1)
    reason = "no window of task.max_length (12 tokens) holds their answer whole"
    assert rows.notes() == [f"{table.name}: 1 of 3 rows were left out of training: {reason}"]


def test_a_stream_of_which_nothing_fits_stops(tokenizer: Any, tmp_path: Path) -> None:
    task: Any = replace(TASKS["squad"], max_length=12, max_question=2, stride=1)  # pyright: ignore[reportCallIssue]
    table = questions(tmp_path / "a.jsonl", ["tea " * 19 + "tea"] * 70)
    rows = Stream(task, table, tokenizer, batch=4, seed=1)
    with pytest.raises(TapertuneError, match=r"a.jsonl: none of 70 rows can be trained on: no window of"):
        rows.check()


def sentences(path: Path, texts: list[str]) -> Any:
    path.write_text("".join(json.dumps({"sentence": text, "label": 1}) + "\n" for text in texts))
    return open_table(path)


def test_a_stream_without_any_text_stops(tokenizer: Any, tmp_path: Path) -> None:
    rows = Stream(TASK, sentences(tmp_path / "a.jsonl", [" "] * 150), tokenizer, batch=4, seed=1)
    with pytest.raises(TapertuneError, match=r"a.jsonl: none of 150 rows has text in 'sentence'"):
        rows.check()


def test_checking_reads_no_further_than_the_first_text(tokenizer: Any, tmp_path: Path) -> None:
    table = sentences(tmp_path / "a.jsonl", [" "] * 100 + ["good"] + [" "] * 3000)
    read: list[int] = []

    def watched() -> Any:
        for number, row in table.read():
            read.append(number)
            yield number, row

    Stream(TASK, replace(table, read=watched), tokenizer, batch=4, seed=1).check()
    assert 100 < len(read) < 200


_TRAIN = """
import json, sys
from tapertune.train.runner import run
from tapertune.runfile.settings import check_settings
print(run(check_settings(json.loads(sys.stdin.read())))["memory"]["peak_rss_bytes"])
"""


@pytest.mark.slow
def test_two_gigabytes_stream_in_less_than_one(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "validation.jsonl", 40)
    line = [json.dumps({"sentence": "good tea " * 900 + word, "label": n}) + "\n" for n, word in enumerate(("a", "b"))]
    block = "".join(line).encode() * 200
    with (tmp_path / "train.jsonl").open("wb") as file:
        while file.tell() < 2 << 30:
            file.write(block)
    task = {"name": "text_classification", "text": "sentence", "data": str(tmp_path), "max_length": 16, "stream": True}
    settings = {
        "model": str(model),
        "task": task,
        "method": "lora",
        "training": {"max_steps": 20, "eval_strategy": "no", "save_strategy": "no"},
        "output_dir": str(tmp_path / "run"),
    }
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _TRAIN]
    done = subprocess.run(
        command, input=json.dumps(settings), capture_output=True, text=True, env=environment, check=False
    )
    (tmp_path / "train.jsonl").unlink()
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 1 << 30
