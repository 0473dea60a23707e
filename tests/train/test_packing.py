"""Packed rows are, to the model, what each is by itself; a model to which they are not is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tasks.tiny_text import llama
from train.tiny_written import settings, write

from tapertune.errors import TapertuneError
from tapertune.runfile.record import read_record
from tapertune.runfile.settings import check_settings
from tapertune.tasks.kinds import Encoded
from tapertune.tasks.packing import bins, collator, packed
from tapertune.train.packing import why_not
from tapertune.train.runner import run


def test_every_row_is_in_one_bin_and_none_is_too_long() -> None:
    lengths = [int(n) for n in torch.randint(1, 30, (200,), generator=torch.Generator().manual_seed(0))]
    made = bins(lengths, 32)
    assert sorted(number for each in made for number in each) == list(range(200))
    totals = [sum(lengths[number] for number in each) for each in made]
    assert max(totals) <= 32
    assert sum(totals) / (32 * len(totals)) > 0.95


def rows() -> Encoded:
    texts = [[7, 8, 9, 10], [11, 12], [13, 14, 15], [9, 7, 8, 12, 13]]
    features = [{"input_ids": ids, "labels": [-100, *ids[1:]]} for ids in texts]
    return Encoded(rows=features, examples=features, owners=[0, 1, 2, 3])


def test_the_loss_of_packed_rows_is_that_of_the_rows() -> None:
    model = llama().eval()
    assert why_not(model, 2) is None  # and without keys for tokens to come, as in training
    encoded = rows()
    batch = collator(0)(packed(encoded, 9).rows)
    assert "attention_mask" not in batch and len(batch["input_ids"]) == 2
    together = model(**batch).loss
    losses = [
        model(input_ids=torch.tensor([r["input_ids"]]), labels=torch.tensor([r["labels"]])).loss for r in encoded.rows
    ]
    tokens = [len(row["input_ids"]) - 1 for row in encoded.rows]
    alone = sum(loss * count for loss, count in zip(losses, tokens, strict=True)) / sum(tokens)
    assert torch.allclose(together, alone, atol=1e-5)


def other(name: str) -> Any:
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "GPT2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32},
        "GPTNeoX": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
        "Bloom": {"hidden_size": 16, "n_layer": 1, "n_head": 2},
        "Mamba": {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4},
    }
    config = getattr(transformers, f"{name}Config")(vocab_size=64, **sizes[name])
    classes = {"GPT2": "GPT2LMHeadModel"}
    return getattr(transformers, classes.get(name, f"{name}ForCausalLM"))(config)


def test_models_are_judged_by_their_numbers() -> None:
    assert why_not(llama(), 2) is None
    assert why_not(llama(), 1) is None
    for name in ("Bloom", "Mamba"):
        assert why_not(other(name), 2) is not None, name
    model = llama()
    plain = model.forward

    def blind(position_ids: Any = None, **inputs: Any) -> Any:
        return plain(**inputs)  # rows see all that stands before them

    model.forward = blind
    reason = why_not(model, 2)
    assert reason is not None and reason.startswith("lets a row see those before it in a packed one")


@pytest.mark.parametrize("method", ["aflora", "full"])
def test_a_run_with_packed_rows(tmp_path: Path, method: str) -> None:
    write(tmp_path, llama())
    record = run(settings(tmp_path, method, {"name": "prompt_completion", "packing": True, "max_length": 32}))
    assert record["status"] == "done" and record["rows"]["train"]["rows"] == 24
    assert read_record(tmp_path / "run").steps == 12


def test_what_cannot_be_packed_is_refused_in_one_line(tmp_path: Path) -> None:
    write(tmp_path, other("Bloom"))
    with pytest.raises(TapertuneError, match=r"task.packing is True, and bloom reads no position_ids"):
        run(settings(tmp_path, "full", {"name": "prompt_completion", "packing": True}))
    assert not (tmp_path / "run").exists()
    with pytest.raises(TapertuneError, match=r"task.packing is True; it must be false where task.kind is seq2seq"):
        check_settings({"model": "m", "method": "lora", "task": {"name": "samsum", "packing": True}})
