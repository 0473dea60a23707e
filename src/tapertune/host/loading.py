"""Puts a saved adapter, of any of PEFT's types, onto a base model."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError

from ..errors import TapertuneError


def load_adapter(model: Any, folder: Path) -> Any:
    """``PeftModel.from_pretrained``, for evaluation.

    Raises:
        TapertuneError: the files are damaged or lack weights, or the adapter was made for another model or another
            number of labels.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Found missing adapter keys", UserWarning)
            return PeftModel.from_pretrained(model, str(folder)).eval()
    except UserWarning as error:
        missing = str(error).partition("[")[2].partition("]")[0].partition(",")[0]
        raise TapertuneError(f"the adapter in {str(folder)!r} lacks weights, such as {missing}") from error
    # what PEFT raises for a config or weights that are another adapter's, or damaged
    except (ValueError, RuntimeError, KeyError, OSError, TypeError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise TapertuneError(f"the adapter in {str(folder)!r} does not fit the base model: {reason[:300]}") from error


def load_adapted(model: Any, folder: str, *, trainable: bool, **keywords: Any) -> Any:
    """``PeftModel.from_pretrained`` as another program's loader calls it, which has its own words for what goes wrong.

    Args:
        model: the base model.
        folder: of the adapter, or its name on the hub.
        trainable: whether training goes on.
        keywords: more of its arguments.
    """
    return PeftModel.from_pretrained(model, folder, is_trainable=trainable, **keywords)
