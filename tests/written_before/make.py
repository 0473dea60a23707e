"""Writes the files that later versions must read: ``python tests/written_before/make.py FOLDER``.

Run it with the version whose files they are to be, not with the one that is to read them: the source of that version
on PYTHONPATH, or installed. FOLDER must not exist.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import yaml
from cases import ADAPTERS, RUNS, SAVED, STOPPED, TRAINED, logits, loop, run_file, trainer
from transformers.trainer_callback import CallbackHandler

from tapertune.cli.main import main as tapertune

WORDS = ("good", "bad", "tea", "rain", "the", "a", "very", "not", "warm", "cold")
INTERRUPTED = 130
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# What nothing reads again: texts, and what a checkpoint holds and a resume does without. That is a pickle of settings,
# random states (nothing here draws any after the start), and the tokenizer, which is the base model's.
NEEDLESS = (
    "**/README.md", "report.html",
    *(f"checkpoint-*/{name}" for name in
      ("training_args.bin", "rng_state.pth", "tokenizer.json", "tokenizer_config.json")),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True)
    os.chdir(folder)  # all paths that get into files are relative to it
    write_base(Path("base"))
    write_data(Path("data"))
    for name in ADAPTERS:
        write_adapter(name, Path("adapters") / name)
    for name in TRAINED:
        write_trained(name, Path("trained") / name)
    for name in RUNS:
        write_run(name, Path("runs") / name)
    Path("out").rmdir()


def write_base(folder: Path) -> None:
    """A BERT body with random weights and without dropout, and a tokenizer of whole words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.2,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)


def write_data(folder: Path) -> None:
    """Sentences of a few words; class ``yes`` holds ``good``."""
    folder.mkdir()
    draw = random.Random(0)
    rows = []
    for _ in range(48):
        label = draw.randrange(2)
        words = [draw.choice(WORDS[2:]) for _ in range(draw.randrange(3, 6))] + [WORDS[1 - label]]
        rows.append({"text": " ".join(words), "label": "yes" if label else "no"})
    with (folder / "train.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("text", "label"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[:24])
    (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[24:]), encoding="utf-8")


def write_adapter(name: str, folder: Path) -> None:
    """An adapter as a plain loop leaves it, and the logits that it gives."""
    model = loop(ADAPTERS[name], "base")
    expected = logits(model)
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    write_json(folder / "expected.json", {"logits": expected.tolist(), "inspect": inspected(folder)})


def inspected(folder: Path) -> dict[str, Any]:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        command("inspect", str(folder), "--json")
    facts = json.loads(output.getvalue())
    return {key: facts[key] for key in ("method", "r", "scaling", "parameters", "frozen", "pruned_ranks")}


def write_trained(name: str, folder: Path) -> None:
    """A Trainer's checkpoint in the middle, its events, and the adapter at the end."""
    run = trainer(TRAINED[name], "base", folder)
    run.train()
    run.model.save_pretrained(folder / "end")
    drop_needless(folder)


def write_run(name: str, folder: Path) -> None:
    """The command's run: its file, the ``whole`` run, and the run ``stopped`` some steps after its first checkpoint."""
    settings = run_file(name)
    folder.mkdir(parents=True)
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    written = Path(settings["output_dir"])
    command("train", str(file))
    move_run(written, folder / "whole")
    shutil.rmtree(folder / "whole" / f"checkpoint-{SAVED}")
    on_step_end = CallbackHandler.on_step_end
    CallbackHandler.on_step_end = interrupt_after(on_step_end)
    try:
        command("train", str(file), expected=INTERRUPTED)
    finally:
        CallbackHandler.on_step_end = on_step_end
    move_run(written, folder / "stopped")


def move_run(source: Path, folder: Path) -> None:
    """Without what no later version has to read, and without the machine that it was made on."""
    source.rename(folder)
    drop_needless(folder)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    record["hardware"] = {"cpu": "some CPU", "cores": 1, "threads": 1, "memory_gb": 1.0, "gpu": None}
    write_json(folder / "run.json", record)


def interrupt_after(on_step_end: Any) -> Any:
    def stop(self: Any, args: Any, state: Any, control: Any) -> Any:
        control = on_step_end(self, args, state, control)
        if state.global_step == STOPPED:
            raise KeyboardInterrupt
        return control

    return stop


def command(*arguments: str, expected: int = 0) -> None:
    code = tapertune(list(arguments))
    if code != expected:
        sys.exit(f"tapertune {' '.join(arguments)} ended with {code}, not {expected}")


def drop_needless(folder: Path) -> None:
    for path in list(folder.glob("checkpoint-*")):
        if path.name != f"checkpoint-{SAVED}":
            shutil.rmtree(path)
    for path in [path for pattern in NEEDLESS for path in folder.glob(pattern)]:
        path.unlink()


def write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
