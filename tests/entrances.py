"""The ways in which a run is trained: Trainer with the callback, the command, a plain loop; PEFT's own methods under
Trainer. Each begins a run in a folder, or goes on with the one that is there, as a user would after any stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny import batch
from torch import nn

import tapertune
from tapertune.errors import TapertuneError
from tapertune.events import EventLog
from tapertune.files import read_json
from tapertune.integrations import new_checkpoint, read_state, restore, save_state, whole_checkpoint

STEPS, EVERY = 6, 2
PLANS: dict[str, Any] = {  # that decide several times in so few steps
    "aflora": {"schedule": {"kind": "cubic", "warmup": 1, "cooldown": 2, "every": 1}},
    "adalora": {"schedule": {"warmup": 1, "cooldown": 2, "every": 1}},
    "lora2": {"schedule": {"warmup": 1, "cooldown": 2, "every": 1}},
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A run's settings.

    Attributes:
        keep: checkpoints that stay.
        first: identity of the first row; another one is other data.
        weight: added to a weight of the base model.
    """

    keep: int = 1
    learning_rate: float = 1e-2
    seed: int = 3
    batch: int = 4
    steps: int = STEPS
    first: int = 0
    weight: float = 0.0


USUAL = Variant()
Begin = Callable[[str, Path, Variant], Callable[[], Any]]


def base(variant: Variant = USUAL) -> nn.Module:
    """One layer of BERT, with dropout."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, num_labels=2,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight[3, 5] += variant.weight
    return model


def rows(variant: Variant) -> list[dict[str, torch.Tensor]]:
    data = batch(17)
    every = [{key: value[i] for key, value in data.items()} for i in range(17)]
    return [every[16 if variant.first else 0], *every[1:16]]


def adapted(method: str, variant: Variant = USUAL) -> Any:
    from peft import get_peft_model

    model = base(variant)
    torch.manual_seed(1)
    config = tapertune.make_config(method, modules_to_save=["classifier"], plan=PLANS.get(method))
    return get_peft_model(model, config)


def trainer_of(model: Any, folder: Path, variant: Variant, callbacks: list[Any]) -> Any:
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        str(folder), max_steps=variant.steps, per_device_train_batch_size=variant.batch, logging_steps=4,
        learning_rate=variant.learning_rate, save_steps=EVERY, save_total_limit=variant.keep, report_to="none",
        use_cpu=True, disable_tqdm=True, seed=variant.seed,
    )  # fmt: skip
    data: Any = rows(variant)
    return Trainer(model, arguments, train_dataset=data, callbacks=callbacks)


def under_trainer(method: str, folder: Path, variant: Variant = USUAL) -> Callable[[], None]:
    def run() -> None:
        trainer = trainer_of(adapted(method, variant), folder, variant, [tapertune.TapertuneCallback()])
        trainer.train(resume_from_checkpoint=whole_checkpoint(folder))

    return run


def of_peft(method: str, folder: Path, variant: Variant = USUAL) -> Callable[[], None]:
    """PEFT's LoRA or AdaLoRA under Trainer, which goes on as it does by itself: from the last folder there is."""
    from peft import AdaLoraConfig, LoraConfig, get_peft_model
    from transformers import TrainerCallback
    from transformers.trainer_utils import get_last_checkpoint

    class Allocate(TrainerCallback):
        """What PEFT's guide asks for beside AdaLoRA."""

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            kwargs["model"].base_model.update_and_allocate(state.global_step)

    common: Any = {"target_modules": ["query", "value", "dense"], "exclude_modules": ["classifier"],
                   "modules_to_save": ["classifier"]}  # fmt: skip

    def run() -> None:
        model = base(variant)
        torch.manual_seed(1)
        if method == "lora":
            model, callbacks = get_peft_model(model, LoraConfig(r=4, **common)), []  # type: ignore[arg-type]
        else:
            config = AdaLoraConfig(
                init_r=4, target_r=2, tinit=1, tfinal=2, deltaT=1, total_step=variant.steps, **common
            )
            model, callbacks = get_peft_model(model, config), [Allocate()]  # type: ignore[arg-type]
        trainer = trainer_of(model, folder, variant, callbacks)
        there = folder.is_dir() and get_last_checkpoint(str(folder)) is not None
        trainer.train(resume_from_checkpoint=there or None)

    return run


def by_command(method: str, folder: Path, variant: Variant = USUAL) -> Callable[[], Any]:
    """What ``tapertune train`` runs. Model and data are in the folder above, as ``train.tiny_run`` writes them."""
    from train.tiny_run import raw_settings, write_data

    from tapertune.runfile.record import FILE
    from tapertune.runfile.settings import check_settings
    from tapertune.train.runner import run

    raw = raw_settings(
        folder.parent, method, output_dir=str(folder), seed=variant.seed, training__max_steps=variant.steps,
        training__save_steps=EVERY, training__logging_steps=4, training__save_total_limit=variant.keep,
        training__eval_strategy="no", training__learning_rate=variant.learning_rate,
        training__per_device_train_batch_size=variant.batch, task__max_length=8,
    )  # fmt: skip
    raw["plan"] = PLANS.get(method)

    def go_on() -> None:
        write_data(folder.parent / "data", rows=16, seed=variant.first)
        with _weight_added(folder.parent / "model", variant.weight):
            try:
                run(check_settings(raw), resume=(folder / FILE).exists())
            except TapertuneError as error:
                if "nothing to resume" not in str(error):  # it was killed when all was written
                    raise

    return go_on


def in_plain_loop(method: str, folder: Path, variant: Variant = USUAL) -> Callable[[], None]:
    def run() -> None:
        model = adapted(method, variant)
        torch.manual_seed(variant.seed)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=variant.learning_rate)
        log = EventLog(folder / "events.jsonl")
        controller = tapertune.attach(model, optimizer, total_steps=variant.steps, events=log)
        step, saved = 0, whole_checkpoint(folder)
        if saved is not None:
            kept = torch.load(Path(saved) / "training.pt", weights_only=True)
            model.load_state_dict(kept["model"])
            restore(controller, saved)
            optimizer.load_state_dict(kept["optimizer"])
            torch.set_rng_state(kept["rng"])
            step = kept["step"]
        for t in range(step, variant.steps):
            model(**batch(variant.batch, seed=t)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if (t + 1) % EVERY == 0:
                with new_checkpoint(folder, t + 1) as checkpoint:
                    model.save_pretrained(checkpoint)
                    save_state(controller, checkpoint)
                    kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                            "rng": torch.get_rng_state(), "step": t + 1}  # fmt: skip
                    torch.save(kept, checkpoint / "training.pt")
        controller.finish()
        model.save_pretrained(folder)

    return run


ENTRANCES: dict[str, Begin] = {"Trainer": under_trainer, "command": by_command, "plain loop": in_plain_loop}
_TIMES = ("runtime", "_per_second", "total_flos", "seconds")
_OWN = ("time", "memory", "hardware", "git", "output_dir", "peak_rss_bytes", "best_model_checkpoint")
_LEFT_OUT = ("tapertune_manifest.json", "training_args.bin", "README.md", "report.html")


def result(folder: Path) -> dict[str, Any]:
    """All that a run leaves which is no time and no memory, by file: values of JSON and torch's files, else bytes."""
    left: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.name in _LEFT_OUT:
            continue
        if path.suffix in (".pt", ".pth"):
            left[name] = torch.load(path, weights_only=path.name != "rng_state.pth")
        elif path.suffix == ".json":
            left[name] = _timeless(read_json(path))
        elif path.name == "tapertune_state.safetensors":
            left[name] = read_state(path.parent)
        else:
            left[name] = path.read_bytes()
    return left


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Where two results differ, bit for bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            if key in one and key in other:
                yield from differences(one[key], other[key], f"{place}/{key}")
            else:
                yield f"{place}/{key} is in one alone"
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{place}/{number}")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield place
    elif type(one).__module__ == "numpy":
        if not bool((one == other).all()):
            yield place
    elif one != other:
        yield place


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        fields = {key: each for key, each in value.items() if not key.endswith(_TIMES) and key not in _OWN}
        return {key: _timeless(each) for key, each in fields.items()}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


@contextmanager
def _weight_added(folder: Path, amount: float) -> Iterator[None]:
    """A model's files with another weight, in here."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    kept = path.read_bytes()
    if amount:
        tensors = load_file(path)
        next(tensor for name, tensor in tensors.items() if name.endswith("output.dense.weight"))[3, 5] += amount
        save_file(tensors, path, {"format": "pt"})
    try:
        yield
    finally:
        if amount:
            path.write_bytes(kept)
