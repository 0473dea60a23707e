"""The controller under TRL's trainers, which make the adapter themselves. Needs trl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tasks.tiny_text import llama, tokenizer

import tapertune
from tapertune.events import read_events
from tapertune.interop import export_lora

trl: Any = pytest.importorskip("trl")
# the library warns at import and about what it does to the model; that is no part of these tests
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore")]

ROWS = 16
PROMPTS = ["2 + 3 ="] * ROWS
RIGHT, WRONG = ["5"] * ROWS, ["6"] * ROWS
COLUMNS = {
    "SFT": {"prompt": PROMPTS, "completion": RIGHT},
    "DPO": {"prompt": PROMPTS, "chosen": RIGHT, "rejected": WRONG},
    "GRPO": {"prompt": PROMPTS},
}
METHODS = {
    "aflora": ({"r": 2}, "freeze", {"schedule": {"warmup": 1, "cooldown": 2, "every": 1}}),
    "adalora": ({"init_r": 3, "target_r": 2, "tinit": 1, "tfinal": 2, "deltaT": 1}, "prune", None),
}


def trainer(kind: str, method: str, folder: Path) -> Any:
    from datasets import Dataset

    values, _, plan = METHODS[method]
    config = tapertune.make_config(method, task_type="CAUSAL_LM", init_weights=False, **values)
    settings: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": 8, "per_device_train_batch_size": 4, "learning_rate": 1e-2,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "seed": 3, "bf16": False,  # TRL trains under autocast unless told otherwise
    }  # fmt: skip
    others: dict[str, Any] = {}
    if kind == "GRPO":
        settings |= {"num_generations": 4, "max_completion_length": 4}
        others["reward_funcs"] = [lambda completions, **rest: [float(len(text)) for text in completions]]
    torch.manual_seed(0)
    return getattr(trl, f"{kind}Trainer")(
        model=llama(),
        args=getattr(trl, f"{kind}Config")(**settings),
        train_dataset=Dataset.from_dict(COLUMNS[kind]),
        processing_class=tokenizer(),
        peft_config=config,
        callbacks=[tapertune.TapertuneCallback(plan)],
        **others,
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", COLUMNS)
def test_a_plan_decides_and_what_was_trained_is_plain_lora(kind: str, method: str, tmp_path: Path) -> None:
    made = trainer(kind, method, tmp_path)
    made.train()
    types = [event["type"] for event in read_events(tmp_path / "events.jsonl")]
    assert METHODS[method][1] in types
    losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
    assert len(losses) == 8
    if kind != "GRPO":  # whose loss is no measure of what was learnt
        assert losses[-1] < losses[0]
    made.save_model(str(tmp_path / "adapter"))
    export_lora(tmp_path / "adapter", tmp_path / "lora")
    ids = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    plain = PeftModel.from_pretrained(llama(), tmp_path / "lora").eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(**ids).logits, made.model.eval()(**ids).logits.float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", tapertune.METHODS)
def test_every_methods_default_run_resumes(method: str, tmp_path: Path) -> None:
    """Stopped after the last decision and gone on from the checkpoint before it, in a new trainer."""
    from datasets import Dataset
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 36:
                raise RuntimeError("stopped")

    def make(folder: Path) -> Any:
        config = trl.SFTConfig(
            str(folder), max_steps=40, per_device_train_batch_size=4, learning_rate=1e-2, save_steps=10, seed=3,
            report_to="none", use_cpu=True, disable_tqdm=True, bf16=False,
        )  # fmt: skip
        torch.manual_seed(0)
        return trl.SFTTrainer(
            model=llama(), args=config, train_dataset=Dataset.from_dict(COLUMNS["SFT"]), processing_class=tokenizer(),
            peft_config=tapertune.make_config(method, task_type="CAUSAL_LM"),
            callbacks=[tapertune.TapertuneCallback()],
        )  # fmt: skip

    whole, cut = make(tmp_path / "whole"), make(tmp_path / "cut")
    whole.train()
    cut.add_callback(Stop())
    with pytest.raises(RuntimeError, match="stopped"):
        cut.train()
    again = make(tmp_path / "cut")
    again.train(resume_from_checkpoint=True)
    expected = dict(whole.model.named_parameters())
    for name, parameter in again.model.named_parameters():
        assert torch.equal(parameter, expected[name]), name
    files = [(tmp_path / name / "events.jsonl").read_bytes() for name in ("whole", "cut")]
    assert files[0] == files[1]
