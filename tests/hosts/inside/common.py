"""What the scripts of this folder share. They run in a host's own environment, where tapertune is installed and its
tests are not: a tiny Llama and a tokenizer, rows, methods whose plans act within a few steps, and what was found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = 6
SETTINGS: dict[str, dict[str, Any]] = {
    "aflora": {"r": 2, "plan": {"schedule": {"warmup": 1, "cooldown": 2, "every": 1}}},
    "adalora": {"init_r": 3, "target_r": 2, "tinit": 1, "tfinal": 2, "deltaT": 1},
}
ACTS = {"aflora": "freeze", "adalora": "prune"}
IDS = [[5, 6, 7, 8]]
WORDS = (
    "<pad>", "<unk>", "<s>", "</s>", "<|turn|>", "<|end|>", "user", "assistant", "system", "one", "two",
    "three", "four", "add", "and", "is", "the", "sum", "of", "good", "bad", "film", ":", "+", "=", *"0123456789",
)  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<|turn|> {{ m['role'] }} {{ m['content'] }} <|end|> \n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|> assistant {% endif %}"
)
CONVERSATION = {"messages": [{"role": "user", "content": "add one and two"}, {"role": "assistant", "content": "3"}]}


class Findings:
    """What works in a host, written to the file that the driver names in ``FINDINGS`` after each check."""

    def __init__(self) -> None:
        self.folder = Path(os.environ["FOLDER"])
        self.checks: list[dict[str, Any]] = []
        self.waiting: list[dict[str, Any]] = []

    def check(self, what: str, act: Callable[..., Any], *arguments: Any) -> Any:
        """Does one thing, and notes whether it can be done."""
        try:
            value = act(*arguments)
        except BaseException as error:
            traceback.print_exc()
            self.note(what, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            return None
        self.note(what)
        return value

    def note(self, what: str, fault: str = "") -> None:
        self.checks.append({"what": what, "works": not fault, **({"fault": fault} if fault else {})})
        Path(os.environ["FINDINGS"]).write_text(json.dumps(self.checks, indent=2), encoding="utf-8")
        print("ok" if not fault else "FAILS", what, fault, flush=True)

    def load_later(self, what: str, **task: Any) -> None:
        """Notes something for the process that loads everything; see loads.py."""
        self.waiting.append({"what": what, **{key: str(v) if isinstance(v, Path) else v for key, v in task.items()}})

    def load(self) -> None:
        """Loads all that waits in one process, which does not import tapertune."""
        tasks, found = self.folder / "tasks.json", self.folder / "loaded.json"
        tasks.write_text(json.dumps(self.waiting), encoding="utf-8")
        found.unlink(missing_ok=True)
        done = subprocess.run([sys.executable, str(Path(__file__).with_name("loads.py")), str(tasks), str(found)])
        if not found.exists():
            self.note("a process that loads", f"ended with {done.returncode}")
            return
        for what, fault in json.loads(found.read_text(encoding="utf-8")).items():
            self.note(what, fault)


def tokenizer() -> Any:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({token: number for number, token in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[0-9:+=]"), "isolated")]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<|turn|>", "<|end|>"], model_max_length=64,
    )  # fmt: skip
    made.chat_template = TEMPLATE
    return made


def base(folder: Path, kind: str = "CausalLM") -> Path:
    """A folder with one layer of Llama, in float32, and its tokenizer."""
    import torch
    import transformers

    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.4, pad_token_id=0, bos_token_id=2,
            eos_token_id=3, num_labels=1,
        )  # fmt: skip
        getattr(transformers, f"LlamaFor{kind}")(config).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
    return folder


def encoder(folder: Path) -> Path:
    """A folder with one layer of BERT and its tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.4,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def config(method: str, **values: Any) -> Any:
    import tapertune

    return tapertune.make_config(method, **{**SETTINGS[method], **values})


def acted(events: Path, method: str) -> None:
    """Raises where a run's events do not hold what the method's plan does."""
    kinds = {json.loads(line)["type"] for line in events.read_text(encoding="utf-8").splitlines()}
    assert ACTS[method] in kinds, f"no {ACTS[method]} among the events: {sorted(kinds)}"


def logits(model: Any, ids: list[list[int]] | None = None) -> list[float]:
    """The last row of what a model answers."""
    import torch

    with torch.no_grad():
        out = model.eval()(input_ids=torch.tensor(ids or IDS).to(next(model.parameters()).device)).logits
    return out.reshape(-1, out.shape[-1])[-1].float().tolist()


def run(*command: str | Path, **environment: str) -> None:
    """Runs a command of the host's own; its directory is that of the running Python.

    Raises:
        RuntimeError: it failed; the last line that tells why is quoted.
    """
    place = Path(sys.executable).parent
    arguments = [str(place / command[0]), *map(str, command[1:])]
    done = subprocess.run(
        arguments, env={**os.environ, "PATH": f"{place}:{os.environ['PATH']}", **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    print(done.stdout[-6000:], flush=True)
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if "Error" in line] or [done.stdout[-300:]]
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {lines[-1][:300]}")


def arguments(folder: Path) -> dict[str, Any]:
    """Arguments of a trainer that takes transformers' own."""
    return {
        "output_dir": str(folder), "max_steps": STEPS, "per_device_train_batch_size": 4, "learning_rate": 1e-2,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "seed": 3, "bf16": False,
    }  # fmt: skip
