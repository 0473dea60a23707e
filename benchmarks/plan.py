"""Holds what ``tapertune plan`` says against what runs then take, on three models: memory and time of a step.

    python benchmarks/plan.py --methods lora,elora --steps 12 --out benchmarks/results/plan.jsonl

Each run is a process of its own on one thread; so is each prediction. Time is the CPU time of training steps after the
first, so that other work on the machine does not count; memory is the most that the process had resident. Bounds:
memory within 10%, time within 20%.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODELS = ("minilm", "bert-6x384", "llama-8x512")
WORDS = ("good", "bad", "tea", "rain", "the", "a", "very", "not", "warm", "cold", "house", "river", "stone", "light")
BATCH, SHORTEST, LONGEST = 16, 30, 90


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--methods", default="lora,elora")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", choices=("predict", "run"))
    options = parser.parse_args()
    if options.worker:
        return _worker(options.worker, json.loads(sys.stdin.read()))
    found = []
    with tempfile.TemporaryDirectory() as place:
        data = write_data(Path(place) / "data", BATCH * options.steps)
        for model in options.models.split(","):
            folder = model if model == "minilm" else str(write_model(model, Path(place) / model))
            for method in options.methods.split(","):
                found.append(compare(model, folder, method, data, Path(place), options.steps))
                print(_line(found[-1]), flush=True)
                if options.out:
                    options.out.write_text("".join(json.dumps(one) + "\n" for one in found), encoding="utf-8")
    return int(any(abs(e["memory"] - 1) > 0.10 or abs(e["time"] - 1) > 0.20 for e in found))


def compare(model: str, folder: str, method: str, data: Path, place: Path, steps: int) -> dict[str, Any]:
    """Prediction over measurement, of memory and time, for one run."""
    raw = {
        "model": folder,
        "task": {"name": "sst2", "data": str(data), "max_length": 128},
        "method": {"name": method},
        "training": {"max_steps": steps, "per_device_train_batch_size": BATCH, "eval_strategy": "no",
                     "save_strategy": "no", "per_device_eval_batch_size": BATCH, "learning_rate": 1e-3},
        "output_dir": str(place / f"run-{model}-{method}"),
    }  # fmt: skip
    said, took = (_ask(worker, raw) for worker in ("predict", "run"))
    ratios = {name: said[name] / took[name] for name in ("memory", "time")}
    return {"model": model, "method": method, **ratios, "predicted": said, "measured": took}


def _ask(worker: str, raw: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", worker]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, input=json.dumps(raw), capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _worker(name: str, raw: dict[str, Any]) -> int:
    import torch

    torch.set_num_threads(1)
    print(json.dumps({"predict": _predict, "run": _run}[name](raw)))
    return 0


def _predict(raw: dict[str, Any]) -> dict[str, Any]:
    from tapertune.cost.plan import plan_run
    from tapertune.runfile.settings import check_settings
    from tapertune.train import forecast, runner
    from tapertune.train.prepare import prepare

    assert runner
    settings, process = check_settings(raw), forecast.resident_bytes()
    prepared = prepare(settings)
    reads, config = forecast.reads_of_run(prepared), prepared.built.model.config
    estimate = plan_run(settings, reads=reads, process=process, config=config)
    assert estimate.time is not None
    parts = {name: value for name, value in vars(estimate.memory).items()}
    return {"memory": estimate.memory.total, "time": estimate.time.step, "floor": estimate.time.floor, "parts": parts,
            "optimizer": estimate.memory.optimizer}  # fmt: skip


def _run(raw: dict[str, Any]) -> dict[str, Any]:
    from tapertune.runfile.settings import check_settings
    from tapertune.train.progress import Display
    from tapertune.train.runner import run

    seconds: list[float] = []

    class Watch(Display):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self._begun = time.process_time()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seconds.append(time.process_time() - self._begun)

    record = run(check_settings(raw), display=Watch())
    memory = record["memory"]
    return {"memory": memory["peak_rss_bytes"], "time": sum(seconds[1:]) / len(seconds[1:]), "first": seconds[0],
            "optimizer": memory["optimizer_bytes_start"]}  # fmt: skip


def _line(each: dict[str, Any]) -> str:
    said, took = each["predicted"], each["measured"]
    memory = f"{said['memory'] / 2**20:.0f} of {took['memory'] / 2**20:.0f} MiB ({each['memory'] - 1:+.1%})"
    step = f"{said['time']:.3f} of {took['time']:.3f} s ({each['time'] - 1:+.1%})"
    return f"{each['model']:12} {each['method']:8} memory {memory:28} step {step}"


def write_data(folder: Path, rows: int) -> Path:
    """Sentences of words that any English tokenizer has whole."""
    folder.mkdir(parents=True)
    draw = random.Random(0)
    for name, count in (("train", rows), ("validation", 2 * BATCH)):
        lines = []
        for _ in range(count):
            words = [draw.choice(WORDS) for _ in range(draw.randint(SHORTEST, LONGEST))]
            lines.append(json.dumps({"sentence": " ".join(words), "label": draw.randrange(2)}) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def write_model(name: str, folder: Path) -> Path:
    """A model with random weights, and a tokenizer of whole words."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    vocabulary = {word: number for number, word in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    common: dict[str, Any] = {"vocab_size": 8192, "pad_token_id": 0}
    if name == "bert-6x384":
        config = transformers.BertConfig(
            hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=6, **common
        )
        transformers.BertModel(config).save_pretrained(folder)
    elif name == "llama-8x512":
        config = transformers.LlamaConfig(
            hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8, **common
        )
        transformers.LlamaModel(config).save_pretrained(folder)
    else:
        raise SystemExit(f"no model {name!r}: {', '.join(MODELS)}")
    return folder


if __name__ == "__main__":
    sys.exit(main())
