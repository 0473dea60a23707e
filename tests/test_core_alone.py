"""Training through PEFT in an environment that has what PEFT brings, and none of what the command needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

WITHOUT = """
import builtins, sys

hidden = {"typer", "click", "rich", "pydantic", "datasets", "sklearn", "scipy", "pandas", "rouge_score"}

class Without:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, *rest):
        return None if name.partition(".")[0] in hidden else self.finder.find_spec(name, *rest)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
real = builtins.__import__

def importing(name, globals=None, *rest, **named):  # PEFT's own needs: kept from tapertune alone
    if name.partition(".")[0] in ("yaml", "jinja2") and (globals or {}).get("__name__", "").startswith("tapertune"):
        raise ModuleNotFoundError(name)
    return real(name, globals, *rest, **named)

builtins.__import__ = importing
"""

TRAINS = """
folder, tests = sys.argv[1:]
sys.path.insert(0, tests)
import tapertune, torch
from peft import PeftModel, get_peft_model
from tiny import Rows, batch, tiny_bert
from transformers import Trainer, TrainingArguments

for name in tapertune.METHODS:
    out = f"{folder}/{name}"
    model = get_peft_model(tiny_bert(), tapertune.make_config(name))
    arguments = TrainingArguments(
        out, max_steps=3, per_device_train_batch_size=4, report_to="none", use_cpu=True, disable_tqdm=True, save_steps=2
    )
    callback = tapertune.TapertuneCallback()
    Trainer(model, arguments, train_dataset=Rows(16), callbacks=[callback]).train()
    assert callback.controller.step == 3
    model.save_pretrained(out)
    rows = batch()
    expected = model.eval()(**rows).logits
    again = PeftModel.from_pretrained(tiny_bert(), out).eval()
    torch.testing.assert_close(again(**rows).logits, expected)
    torch.testing.assert_close(again.merge_and_unload()(**rows).logits, expected, atol=1e-4, rtol=1e-4)
assert not hidden & set(sys.modules), hidden & set(sys.modules)
"""


def without(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_every_method_trains_saves_loads_and_merges(tmp_path: Path) -> None:
    done = without(TRAINS, tmp_path, TESTS)
    assert done.returncode == 0, done.stderr


def test_the_command_says_in_one_line_what_is_missing() -> None:
    done = without("from tapertune.__main__ import main\nsys.exit(main())")
    assert done.returncode == 1 and done.stdout == ""
    assert (
        done.stderr.startswith("error: the command needs typer, which is not installed")
        and done.stderr.count("\n") == 1
    )
