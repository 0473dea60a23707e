"""The methods are known to PEFT however it comes to be imported: each in a fresh process."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from tiny import batch, tiny_bert

import tapertune

KNOWN = """
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as known
from tapertune.methods import METHODS
assert {method.peft_name.upper() for method in METHODS.values()} <= set(known), sorted(known)
"""


def fresh(code: str, *arguments: str | Path) -> str:
    command = [sys.executable, "-W", "error::UserWarning", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


LOOKED_FOR = """
import sys, tapertune
from importlib.util import find_spec, module_from_spec
for _ in range(3):
    spec = find_spec("peft")
    assert spec.name == "peft" and spec.origin.endswith("__init__.py") and spec.loader.path == spec.origin
assert not {"torch", "peft", "transformers"} & set(sys.modules), "looking for it imports nothing"
import peft
assert peft.__spec__.loader is peft.__loader__ and type(peft.__loader__).__name__ == "SourceFileLoader"
assert not any(type(finder).__module__ == "tapertune._lazy" for finder in sys.meta_path), "nothing is left behind"
"""

BY_HAND = """
import sys, tapertune
from importlib.util import find_spec, module_from_spec
spec = find_spec("peft")
module = sys.modules["peft"] = module_from_spec(spec)
spec.loader.exec_module(module)
"""

RELOADED = """
import importlib.util, sys, tapertune
importlib.reload(tapertune)
assert sum(type(finder).__name__ == "_AfterPeft" for finder in sys.meta_path) == 1
importlib.reload(sys.modules["tapertune._lazy"])
importlib.reload(tapertune)  # a second finder beside the first: each asks the other
importlib.util.find_spec("peft")
import peft
importlib.reload(peft)
importlib.reload(tapertune)
"""

TRIED_AGAIN = """
import sys, tapertune
sys.modules["torch"] = None
try:
    import peft
except ImportError:
    del sys.modules["torch"]
for name in [name for name in sys.modules if name.partition(".")[0] in ("peft", "transformers", "accelerate")]:
    del sys.modules[name]
import peft
"""

BLOCKED = """
import sys
sys.modules["peft"] = None
import tapertune
del sys.modules["peft"]
import peft
"""

IN_A_THREAD = """
import sys, threading, time
thread = threading.Thread(target=lambda: __import__("peft"))
thread.start()
while "peft" not in sys.modules:
    time.sleep(0.001)
import tapertune
if "transformers" not in sys.modules:
    assert sys.modules["peft"].__spec__._initializing, "importing tapertune waits for nobody"
thread.join()
assert type(sys.modules["peft"].__spec__).__name__ == "ModuleSpec"
"""

IN_THREADS = """
import threading, tapertune
from importlib.util import find_spec
start, errors = threading.Barrier(8), []
def work(number):
    start.wait()
    try:
        find_spec("peft")
        from peft import PeftConfig
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as known
        assert "TAPERTUNE_AFLORA" in known
    except BaseException as error:
        errors.append(error)
threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not errors, errors
"""

WITHIN = """
import sys, types
class Within:  # PEFT imports a library that imports tapertune
    def find_spec(self, name, path=None, target=None):
        if name == "peft.mapping" and "tapertune" not in sys.modules:
            import tapertune
            assert "tapertune.host" not in sys.modules
sys.meta_path.insert(0, Within())
import peft
"""


@pytest.mark.parametrize(
    "code", [LOOKED_FOR, TRIED_AGAIN, IN_A_THREAD], ids=["looked for", "tried again", "in a thread"]
)
def test_the_methods_are_known(code: str) -> None:
    fresh(code + KNOWN)


ORDERS = ("import tapertune, peft", "import peft, tapertune", "import tapertune, peft.tuners")

COPIES = """
import json, os, sys, traceback
import torch, transformers  # seconds, once
from transformers import PreTrainedModel
assert not {"peft", "tapertune"} & set(sys.modules)
for name, code in json.loads(sys.stdin.read()).items():
    if os.fork() == 0:
        try:
            exec(code, {"__name__": "__main__"})
        except BaseException:
            print(f"{name}:", traceback.format_exc())
            os._exit(1)
        os._exit(0)
    if os.wait()[1] != 0:
        sys.exit(1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="copies of a process")
def test_the_methods_are_known_where_torch_is_imported_already() -> None:
    """Each case in a copy of one process that has neither PEFT nor tapertune."""
    cases = {"by hand": BY_HAND, "reloaded": RELOADED, "blocked": BLOCKED, "in threads": IN_THREADS, "within": WITHIN}
    cases |= {order: order for order in ORDERS}
    cases = {name: f"{code}\n{KNOWN}" for name, code in cases.items()}
    command = [sys.executable, "-W", "error::UserWarning", "-c", COPIES]
    environment = {**os.environ, "TAPERTUNE_AUTOLOAD": "0"}
    done = subprocess.run(
        command, input=json.dumps(cases), capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr


LOADED = """
import sys, tapertune, torch
from transformers import AutoModel
from transformers.utils import logging
logging.set_verbosity_error()
base, run, rows, out = sys.argv[1:]
model = AutoModel.from_pretrained(base)
model.load_adapter(run)
torch.save(model.eval()(**torch.load(rows)).last_hidden_state, out)
"""


def test_an_adapter_of_a_model_that_transformers_loaded(tmp_path: Path) -> None:
    model = tiny_bert().bert.eval()
    model.save_pretrained(tmp_path / "base")
    rows = {key: value for key, value in batch().items() if key != "labels"}
    torch.save(rows, tmp_path / "rows.pt")
    torch.manual_seed(1)
    adapted = get_peft_model(model, tapertune.make_config("aflora", r=3, init_weights=False)).eval()
    expected = adapted(**rows).last_hidden_state
    adapted.save_pretrained(tmp_path / "run")
    fresh(LOADED, tmp_path / "base", tmp_path / "run", tmp_path / "rows.pt", tmp_path / "out.pt")
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), expected.detach(), rtol=0, atol=1e-6)


def test_a_pickled_config(tmp_path: Path) -> None:
    """Its class is tapertune's, so that a process that unpickles it needs no import of its own."""
    for name in ("sora", "lora2"):
        (tmp_path / name).write_bytes(pickle.dumps(tapertune.make_config(name)))
    code = "import pickle, sys\nfor path in sys.argv[1:]: print(pickle.load(open(path, 'rb')).peft_type.value)\n"
    assert fresh(code + KNOWN, tmp_path / "sora", tmp_path / "lora2") == "TAPERTUNE_SORA\nTAPERTUNE_LORA2\n"


def test_what_was_found_can_be_pickled_and_copied() -> None:
    fresh(
        "import copy, pickle, tapertune\nfrom importlib.util import find_spec\nspec = find_spec('peft')\n"
        "for other in (pickle.loads(pickle.dumps(spec)), copy.deepcopy(spec)):\n"
        "    assert other.origin == spec.origin and type(other.loader).__name__ == 'SourceFileLoader'\n"
    )
