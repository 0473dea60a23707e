"""An adapter that has not trained yet, for programs that go on from an adapter and make none of ours themselves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, set_seed

from ..errors import TapertuneError
from ..files import whole_folder
from ..host import adapt_model, make_config
from .models import find_model
from .suppress_logging import suppress_logging

TASKS = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}
CONFIG = "adapter_config.json"


def write_start(
    model: str, method: str, out: Path, values: dict[str, Any], *, seed: int = 42, overwrite: bool = False
) -> str | None:
    """Writes an adapter at its initial values, which leave the model as it is.

    Args:
        model: as in run files.
        method: the method's name.
        out: the folder to write.
        values: fields of the method's config. Without ``task_type``, it is that of the model's own class.
        seed: of the initial values.
        overwrite: an adapter that is in the folder is replaced.

    Returns:
        The task type; None where the model has none of PEFT's.

    Raises:
        TapertuneError: the model cannot be loaded, a field is none or out of its range, the adapter does not fit the
            model, or the folder is taken.
    """
    if out.exists() and not (overwrite and (out / CONFIG).is_file()):
        hint = "it holds no adapter, so nothing replaces it" if overwrite else "--overwrite replaces an adapter"
        raise TapertuneError(f"--out is {str(out)!r}, which is there already: {hint}")
    make_config(method, **values)  # before minutes of loading
    with suppress_logging(errors_only=True):
        base = _load(model)
        task = next((task for ending, task in TASKS.items() if type(base).__name__.endswith(ending)), None)
        values = {"task_type": task, **values}
        set_seed(seed)
        adapted = adapt_model(base, make_config(method, **values))
        if out.exists():
            shutil.rmtree(out)
        with whole_folder(out) as folder:
            adapted.save_pretrained(str(folder))
    return values["task_type"]


def _load(model: str) -> Any:
    path = find_model(model)
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise TapertuneError(f"cannot load model {model!r}: the folder holds no config.json")
    try:
        config = AutoConfig.from_pretrained(path)
        names = [name for name in config.architectures or () if hasattr(transformers, name)]
        auto = getattr(transformers, names[0]) if names else transformers.AutoModel
        return auto.from_pretrained(path, dtype="auto")
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        place = "" if Path(path).is_dir() else "there is no such file or folder, and as a name on the hub: "
        raise TapertuneError(f"cannot load model {model!r}: {place}{reason}") from error
