from __future__ import annotations

import pytest

from tapertune.errors import TapertuneError
from tapertune.tasks import TASKS
from tapertune.tasks.encode import encode
from tapertune.tasks.kinds import get_kind


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    from train.tiny_run import write_model
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(write_model(tmp_path_factory.mktemp("model")))


def test_pairs_are_encoded_cut_and_unpadded(tokenizer) -> None:
    examples = [{"texts": ["good tea", "rain"], "label": 1}, {"texts": ["bad " * 20, "rain"], "label": 0}]
    rows = encode(TASKS["rte"], examples, tokenizer, 8, train=True)
    assert [len(rows[i]["input_ids"]) for i in range(2)] == [6, 8]
    assert tokenizer.decode(rows[0]["input_ids"]) == "[CLS] good tea [SEP] rain [SEP]"
    assert tokenizer.decode(rows[1]["input_ids"]).endswith("[SEP] rain [SEP]")  # the longer text is cut
    assert (rows[0]["labels"], len(rows), rows.truncated) == (1, 2, 1)


def test_more_tokens_than_the_model_reads_are_refused(tokenizer) -> None:
    with pytest.raises(TapertuneError, match=r"task.max_length is 33; it must be at most 32"):
        encode(TASKS["sst2"], [{"texts": ["a"], "label": 0}], tokenizer, 33, train=True)


def test_a_batch_is_padded_to_its_longest(tokenizer) -> None:
    task = TASKS["sst2"]
    rows = encode(task, [{"texts": ["good"]}, {"texts": ["good tea rain"]}], tokenizer, 16, train=False)
    batch = get_kind(task.kind).collator(task, tokenizer, train=False)([rows[0], rows[1]])
    assert batch["input_ids"].shape == (2, 5)
    assert batch["attention_mask"].sum().item() == 3 + 5
