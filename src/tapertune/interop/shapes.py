"""The widths of a base model's layers: from its config alone, or of a model in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import TapertuneError
from ..host.kinds import adaptable, facts_of
from ..host.parameter_layer import held_matrices
from ..host.widths import widths_of
from .layer_kinds import LayerKind, read_kinds
from .names import find_names

_BY_TASK = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoModel",
}
_OTHERS = (
    "AutoModelForImageClassification", "AutoModelForMaskedLM", "AutoModelForImageTextToText",
    "AutoModelForSpeechSeq2Seq", "AutoModel",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HeldShape:
    """A parameter of a base model that holds matrices.

    Attributes:
        order: its place among its module's parameters.
        interleaved: whether gate and up take turns in its rows.
    """

    order: int
    interleaved: bool = False


@dataclass(frozen=True, kw_only=True)
class BaseShapes:
    """What a base model is made of.

    Attributes:
        widths: (d_out, d_in) of the layers that can be adapted, by path.
        names: the paths of all its modules.
        transposed: whether it has Conv1D layers (GPT-2), whose weights are (d_in, d_out).
        held: its parameters that hold matrices, such as stacked experts, by path.
        model_type: transformers' word for the architecture.
        model_class: the class of transformers that has these paths; None for a model in memory or within another.
        config: the model's, of transformers; None for a model that has none.
        kinds: what the layers are that are not linear.
    """

    widths: dict[str, tuple[int, int]]
    names: frozenset[str]
    transposed: bool
    model_class: Any = None
    config: Any = None
    kinds: dict[str, LayerKind] = field(default_factory=dict)
    held: dict[str, HeldShape] = field(default_factory=dict)
    model_type: str | None = None


class BaseUnknown(TapertuneError):
    """There is no base model there, or none that transformers can build: its shapes are not to be had."""


def shapes_of_base(base: str | Path, modules: Collection[str], task_type: Any, revision: str | None) -> BaseShapes:
    """The shapes of a model, from its config: nothing of its weights is read or allocated.

    Args:
        base: a folder, or a model's name on the Hub.
        modules: paths of adapted modules. Of the classes of transformers that the model can be built with, the first
            that has them all is taken, else the one that has most.
        task_type: PEFT's, which says what class to begin with.
        revision: the base's revision, for a model on the Hub.

    Raises:
        BaseUnknown: no config there, or one of a model type that transformers does not know.
        TapertuneError: no module in common.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(base), revision=revision)
    except Exception as error:  # a file of somebody's, in which any field may have any type
        reason = str(error).strip().partition("\n")[0]
        raise BaseUnknown(f"the config of the base model {str(base)!r} cannot be read: {reason}") from error
    best: tuple[int, BaseShapes] | None = None
    for model_class in _classes(config, task_type):
        try:
            with torch.device("meta"):
                model = model_class.from_config(config)
        except Exception:
            continue  # not a class of this model's, or one that needs what is not installed
        shapes = shapes_of_model(model, model_class)
        count = sum(module in shapes.widths for module in modules)
        if best is None or count > best[0]:
            best = count, shapes
        if count == len(modules):
            break
    if best is None:
        raise BaseUnknown(f"no model of transformers is built from the config of the base model {str(base)!r}")
    return best[1] if best[0] else _within(best[1], list(modules), str(base))


def _within(shapes: BaseShapes, modules: list[str], base: str) -> BaseShapes:
    """The shapes under the adapter's paths, where the adapted model holds the base at another place, as a wrapper does.

    Raises:
        TapertuneError: there is no such place.
    """
    try:
        change = find_names(modules, [f"{name}.weight" for name in shapes.widths], base)
    except TapertuneError as error:
        raise TapertuneError(f"none of the adapter's modules is in the base model {base}: {error}") from error

    def renamed(name: str) -> str:
        return change.strip + name.removeprefix(change.add)

    inside = {name: widths for name, widths in shapes.widths.items() if name.startswith(change.add)}
    return BaseShapes(
        widths={renamed(name): widths for name, widths in inside.items()},
        names=frozenset(renamed(name) for name in shapes.names if name.startswith(change.add)),
        transposed=shapes.transposed,
        config=shapes.config,
        kinds={renamed(name): kind for name, kind in shapes.kinds.items() if name.startswith(change.add)},
        held={renamed(name): shape for name, shape in shapes.held.items() if name.startswith(change.add)},
        model_type=shapes.model_type,
    )


def _classes(config: Any, task_type: Any) -> Iterator[Any]:
    """The auto classes to try: the task's, that of the architecture that the base was saved with, then the others."""
    import transformers

    names = [_BY_TASK.get(str(getattr(task_type, "value", task_type)))]
    for architecture in config.architectures or []:
        names += [n for n in dict.fromkeys([*_BY_TASK.values(), *_OTHERS]) if _builds(n, config, architecture)]
    names += [*_BY_TASK.values(), *_OTHERS]
    for name in dict.fromkeys(name for name in names if name):
        if hasattr(transformers, name):
            yield getattr(transformers, name)


def _builds(name: str, config: Any, architecture: str) -> bool:
    import transformers

    mapping = getattr(getattr(transformers, name, None), "_model_mapping", {})
    model = mapping.get(type(config), None)
    candidates = model if isinstance(model, tuple | list) else (model,)
    return any(getattr(candidate, "__name__", None) == architecture for candidate in candidates)


def shapes_of_model(model: nn.Module, model_class: Any = None) -> BaseShapes:
    """The shapes of a model in memory, with or without adapters in it."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    widths: dict[str, tuple[int, int]] = {}
    held: dict[str, HeldShape] = {}
    names: set[str] = set()
    kinds: dict[str, LayerKind] = {}
    transposed = False
    opaque: str | None = None  # what PEFT put in the place of a module is one module, whatever it holds
    for name, module in inner.named_modules():
        if not name or (opaque is not None and name.startswith(opaque)):
            continue
        names.add(name)
        layer = module
        if isinstance(module, BaseTunerLayer):
            opaque, layer = name + ".", module.get_base_layer()
        elif isinstance(module, AuxiliaryTrainingWrapper):
            opaque = name + "."
            continue
        if isinstance(layer, nn.Module) and adaptable(layer):
            d_in, d_out = widths_of(layer)
            widths[name] = (d_out, d_in)
            transposed = transposed or type(layer).__name__ == "Conv1D"
            kinds |= read_kinds("the base model", {name: known} if (known := facts_of(layer)) else {})
            if isinstance(layer, nn.MultiheadAttention):  # its output projection, as an adapted one holds it
                opaque, widths[f"{name}.base_layer.out_proj"] = name + ".", (layer.embed_dim, layer.embed_dim)
        elif isinstance(layer, nn.Module) and not type(layer).__module__.startswith("torch.nn."):
            _add_held(name, layer, widths, held)
    return BaseShapes(
        widths=widths,
        names=frozenset(names),
        transposed=transposed,
        model_class=model_class,
        config=getattr(inner, "config", None),
        kinds=kinds,
        held=held,
        model_type=getattr(getattr(inner, "config", None), "model_type", None),
    )


def _add_held(path: str, module: nn.Module, widths: dict[str, tuple[int, int]], held: dict[str, HeldShape]) -> None:
    """The matrices in a module's own parameters."""
    for order, (name, parameter) in enumerate(module.named_parameters(recurse=False)):
        if parameter.dim() not in (2, 3):
            continue
        interleaved = not getattr(module, "is_concatenated", True)
        held[f"{path}.{name}"] = HeldShape(order=order, interleaved=interleaved)
        for matrix, one in held_matrices(module, f"{path}.{name}").items():
            widths[matrix] = (one.output_size, one.input_size)
