"""Adapters are found by programs that never import tapertune: each in a fresh process, whose Python starts with the
.pth file that an installation has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import tiny_bert
from transformers import AutoTokenizer

import tapertune
from tapertune.methods import METHODS

ROOT = Path(__file__).parent.parent
AUTOLOAD = ROOT / "autoload"


def fresh(folder: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs Python as where tapertune is installed, with modules of the folder found first."""
    (folder / "sitecustomize.py").write_text(f"import site\nsite.addsitedir({str(AUTOLOAD)!r})\n", encoding="utf-8")
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = os.pathsep.join([str(folder), str(Path(tapertune.__file__).parents[1]), *filter(None, before)])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": paths, "TAPERTUNE_AUTOLOAD": "", **environment},
    )  # fmt: skip


def printed(folder: Path, code: str, *arguments: str | Path, warns: bool = False, **environment: str) -> str:
    done = fresh(folder, "-c", "import sys; sys.stderr = sys.stdout\n" * warns + code, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_starting_python_imports_nothing(tmp_path: Path) -> None:
    code = "import sys; print(*sorted(sys.modules)); print(len(sys.meta_path))"
    on, off = (printed(tmp_path, code, TAPERTUNE_AUTOLOAD=value).splitlines() for value in ("1", "0"))
    assert on[0] == off[0] and "tapertune_autoload" in on[0].split() and "tapertune" not in on[0].split()
    assert int(on[1]) == int(off[1]) + 1


@pytest.mark.parametrize("value", ["0", "off", "False", " no "])
def test_switched_off(value: str, tmp_path: Path) -> None:
    (tmp_path / "peft.py").touch()
    code = "import peft, sys; print('tapertune' in sys.modules)"
    assert printed(tmp_path, code, TAPERTUNE_AUTOLOAD=value) == "False"


def test_looking_for_peft_imports_no_library(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom importlib.util import find_spec\n"
        "for name in ('json', 'nowhere', 'peft', 'peft'): spec = find_spec(name)\n"
        "assert spec.name == 'peft' and spec.loader.path == spec.origin\n"
        "print('tapertune' in sys.modules, {'torch', 'peft', 'numpy', 'typer'} & set(sys.modules))\n"
        "print([finder for finder in sys.meta_path if getattr(finder, '__name__', '') == 'tapertune_autoload'])"
    )
    assert printed(tmp_path, code).splitlines() == ["True set()", "[]"]


def test_peft_can_be_missing(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom importlib.util import find_spec\n"
        "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
        "print(find_spec('peft'))\ntry:\n    import peft\nexcept ImportError as error:\n    print(error)"
    )
    assert printed(tmp_path, code).splitlines() == ["None", "No module named 'peft'"]


@pytest.mark.parametrize("removed", [True, False], ids=["removed", "broken"])
def test_a_tapertune_that_cannot_be_imported_leaves_peft_alone(removed: bool, tmp_path: Path) -> None:
    (tmp_path / "peft.py").write_text("fine = 1")
    if removed:
        code = "import sys\nsys.modules['tapertune'] = None\n"
    else:
        (tmp_path / "tapertune").mkdir()
        (tmp_path / "tapertune" / "__init__.py").write_text("raise RuntimeError('half written')")
        code = ""
    output = printed(tmp_path, code + "import peft\nprint(peft.fine)", warns=True)
    assert output.endswith("1")
    assert ("half written" in output and "TAPERTUNE_AUTOLOAD=0" in output) != removed


FAILS = "import sys\nsys.modules['torch'] = None\n"


def test_methods_that_cannot_be_registered_are_warned_of(tmp_path: Path) -> None:
    (tmp_path / "peft.py").write_text("fine = 1")
    output = printed(tmp_path, FAILS + "import peft\nprint(peft.fine)", warns=True)
    assert output.endswith("1") and "UserWarning: tapertune's adapters cannot be used here" in output
    assert "TAPERTUNE_AUTOLOAD=0" in output


@pytest.mark.parametrize("first", ["tapertune", "tapertune, importlib.util; importlib.util.find_spec('peft')"])
def test_who_imports_tapertune_hears_of_what_fails(first: str, tmp_path: Path) -> None:
    (tmp_path / "peft.py").touch()
    done = fresh(tmp_path, "-c", FAILS + f"import {first}\nimport peft")
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith("ModuleNotFoundError")


LOADED = """
import sys, torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as known
from transformers import AutoModel, AutoModelForSequenceClassification, pipeline
from transformers.utils import logging
logging.set_verbosity_error()
base, run, methods = sys.argv[1:]
assert set(methods.upper().split()) <= set(known)
ids = torch.tensor([[3, 4, 5, 6]])
model = PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(base), run).eval()
scores = model(input_ids=ids).logits[0].softmax(0)
assert len([name for name, _ in AutoModel.from_pretrained(run).named_modules() if "aflora_A" in name])
classify = pipeline("text-classification", model=run, tokenizer=base, top_k=None)
with torch.no_grad():
    direct = classify.model.eval()(input_ids=ids).logits[0].softmax(0)
print(*(scores.tolist() + direct.tolist()))
assert len(classify("the film was good")[0]) == 2
"""


def test_peft_transformers_and_pipelines_load_an_adapter(tmp_path: Path, shared_root: Path) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    model: Any = tiny_bert()
    model.save_pretrained(base)
    AutoTokenizer.from_pretrained(shared_root / "model").save_pretrained(base)
    model.name_or_path = str(base)
    config = tapertune.make_config("aflora", r=3, init_weights=False, task_type="SEQ_CLS")
    adapted = get_peft_model(model, config).eval()
    expected = adapted(input_ids=torch.tensor([[3, 4, 5, 6]])).logits[0].softmax(0).tolist()
    adapted.save_pretrained(run)
    names = " ".join(method.peft_name for method in METHODS.values())
    scores = [float(word) for word in printed(tmp_path, LOADED, base, run, names).split()]
    assert scores == pytest.approx(expected * 2, abs=1e-5)


TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: ["a", "b"]
doc_to_target: "{{label}}"
metric_list: [{metric: acc}]
"""


@pytest.mark.slow
@pytest.mark.extra
def test_lm_eval_measures_an_adapter(tmp_path: Path, shared_root: Path) -> None:
    pytest.importorskip("lm_eval")
    from transformers import LlamaConfig, LlamaForCausalLM

    base, run, out = tmp_path / "base", tmp_path / "run", tmp_path / "out"
    tokenizer = AutoTokenizer.from_pretrained(shared_root / "model")
    tokenizer.save_pretrained(base)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(base)
    model = LlamaForCausalLM.from_pretrained(base)
    get_peft_model(model, tapertune.make_config("adalora", task_type="CAUSAL_LM")).save_pretrained(run)
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps({"text": "good film", "label": i % 2}) for i in range(4)))
    (tmp_path / "sums.yaml").write_text(TASK.replace("DATA", str(data)))
    arguments = [
        "--model", "hf", "--model_args", f"pretrained={base},peft={run},dtype=float32", "--tasks", "sums",
        "--include_path", tmp_path, "--device", "cpu", "--output_path", out,
    ]  # fmt: skip
    done = fresh(tmp_path, "-m", "lm_eval", *arguments, HF_HOME=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "acc" in done.stdout
