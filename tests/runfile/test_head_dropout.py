from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn
from train.tiny_run import raw_settings
from transformers import (
    AlbertConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    LlamaConfig,
    RobertaConfig,
)

from tapertune.cost.recipes import check_recipe
from tapertune.errors import TapertuneError
from tapertune.runfile.head_dropout import check_head_dropout, set_head_dropout
from tapertune.runfile.settings import check_settings
from tapertune.train.models import build
from tapertune.train.runner import run

SIZE: dict[str, Any] = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL: dict[str, Any] = {**SIZE, "intermediate_size": 16}
CONFIGS = [
    BertConfig(**SMALL),
    RobertaConfig(**SMALL),
    DebertaV2Config(**SMALL),
    AlbertConfig(**SMALL, embedding_size=16),
    DistilBertConfig(vocab_size=32, dim=16, n_layers=1, n_heads=2, hidden_dim=16),
    BartConfig(vocab_size=32, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
               decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16),
]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_the_field_is_the_one_that_the_model_reads(config: Any) -> None:
    set_head_dropout(config, 0.37)
    model = AutoModelForSequenceClassification.from_config(config)
    check_head_dropout(model, 0.37)
    with pytest.raises(TapertuneError, match="no dropout before its classifier"):
        check_head_dropout(model, 0.36)


@pytest.mark.parametrize(
    ("auto", "config"),
    [
        (AutoModelForQuestionAnswering, BertConfig(**SMALL)),
        (AutoModelForSequenceClassification, LlamaConfig(**SMALL, pad_token_id=0)),
    ],
)
def test_models_that_have_none(auto: Any, config: Any) -> None:
    set_head_dropout(config, 0.2)
    with pytest.raises(TapertuneError, match=r"head.dropout: .* \((bert|llama)\) has no dropout before"):
        check_head_dropout(auto.from_config(config), 0.2)


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_a_run_sets_it(root: Path, value: float) -> None:
    settings = check_settings(raw_settings(root, "lora", head__dropout=value, training__max_steps=2))
    built = build(settings, settings.task.declaration())
    dropout: Any = built.model.base_model.model.dropout
    assert isinstance(dropout, nn.Dropout) and dropout.p == value
    assert run(settings)["settings"]["head"]["dropout"] == value


def test_a_model_without_it_stops_before_anything_is_written(root: Path) -> None:
    rows = root / "questions.jsonl"
    rows.write_text('{"question": "good", "context": "tea", "answers": {"text": ["tea"], "answer_start": [0]}}\n')
    task = {
        "name": "squad",
        "train": str(rows),
        "validation": str(rows),
        "max_length": 16,
        "max_question": 2,
        "stride": 2,
    }
    with pytest.raises(TapertuneError, match=r"head.dropout: BertForQuestionAnswering"):
        run(check_settings(raw_settings(root, "lora", task=task, head__dropout=0.2)))
    assert not (root / "run").exists()


def test_validate_says_so_too(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: minilm\ntask: squad\nmethod: lora\nhead: {dropout: 0.2}\n")
    with pytest.raises(TapertuneError, match=r"head.dropout: BertForQuestionAnswering"):
        check_recipe(path)
    path.write_text("model: minilm\ntask: sst2\nmethod: lora\nhead: {dropout: 0.2}\n")
    assert check_recipe(path).shape is not None


@pytest.mark.parametrize("value", [1.0, -0.1, "much"])
def test_values_that_are_none(root: Path, value: Any) -> None:
    with pytest.raises(TapertuneError, match=r"head.dropout is "):
        check_settings(raw_settings(root, "lora", head__dropout=value))
