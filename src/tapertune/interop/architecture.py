"""What transformers knows of the model that an adapter was trained on: its class, its tied weights, its classes.

The model is built from its config without memory for weights (on the ``meta`` device), so that what is said here is
what loading it gives, for every architecture.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .checkpoint import Checkpoint
from .saved import SavedAdapter

_AUTO = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
_MOST_LAYERS = 4096  # a config may name any number; none larger is built


@dataclass(frozen=True)
class Architecture:
    """A class of transformers that has every module of an adapter.

    Attributes:
        name: of the class.
        shapes: of its weights, by name; every name of a tied weight is there.
        ties: names of one weight, by group; each name is in one group at most.
        num_labels: how many classes the config gives it.
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    ties: list[frozenset[str]]
    num_labels: int

    @property
    def classifies(self) -> bool:
        return self.name.endswith(("ForSequenceClassification", "ForTokenClassification"))

    def labels_of(self, extras: Mapping[str, Tensor]) -> int | None:
        """How many classes the saved head has; None where no saved weight is one by class."""
        heads = [t for p, t in extras.items() if t.dim() == 2 and self.shapes.get(p, ())[:1] == (self.num_labels,)]
        return heads[-1].shape[0] if self.classifies and heads else None


def find_architecture(checkpoint: Checkpoint, adapter: SavedAdapter) -> Architecture | None:
    """The class that the adapter was trained on: the one that the adapter names, else the one of its task, else the
    base's. None where transformers has none of them with all of the adapter's modules."""
    paths = {f"{module}.weight" for module in adapter.modules}
    paths |= {path.replace(".base_layer.", ".") for path in adapter.extras}
    for candidate in _candidates(checkpoint.config, adapter):
        built = build(candidate, checkpoint.config)
        if built is not None and paths <= built.shapes.keys():
            return built
    return None


def _candidates(config: Mapping[str, Any], adapter: SavedAdapter) -> Iterator[str]:
    named = (adapter.config.auto_mapping or {}).get("base_model_class")
    task = getattr(adapter.config.task_type, "value", adapter.config.task_type)
    own = config.get("architectures")
    options = (named, _AUTO.get(str(task)), *(own if isinstance(own, list) else ()), "AutoModel")
    yield from dict.fromkeys(option for option in options if isinstance(option, str) and option.isidentifier())


def build(name: str, config: Mapping[str, Any]) -> Architecture | None:
    """A class of transformers with a config's values; None where it has no such class or refuses the values."""
    if _too_large(config):
        return None
    with _quiet():
        try:
            model = _model(name, config)
            if model is None:
                return None
            shapes = {path: tuple(weight.shape) for path, weight in model.state_dict().items()}
            labels = getattr(model.config, "num_labels", 0)
            return Architecture(type(model).__name__, shapes, _groups(model.all_tied_weights_keys), labels)
        except Exception:  # whatever transformers' many classes raise for a config that is not theirs
            return None


def _model(name: str, config: Mapping[str, Any]) -> Any:
    import transformers
    from transformers import CONFIG_MAPPING

    chosen: Any = getattr(transformers, name, None)
    if config.get("model_type") not in CONFIG_MAPPING or chosen is None:
        return None
    settings = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    with torch.device("meta"):
        if name.startswith("Auto"):
            return chosen.from_config(settings)
        is_model = isinstance(chosen, type) and issubclass(chosen, transformers.PreTrainedModel)
        return chosen(settings) if is_model else None


def untied(config: Mapping[str, Any], name: str, groups: list[frozenset[str]]) -> dict[str, Any] | None:
    """The config with head and embedding as two weights; None where the architecture takes no notice of it for these
    groups: T5 reads ``tie_word_embeddings`` as something else, and has two weights where a checkpoint holds two."""
    changed = untied_fields(config)
    built = build(name, changed)
    return None if built is None or any(group in built.ties for group in groups) else changed


def untied_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with ``tie_word_embeddings`` off, in its parts too where they have it."""
    parts = {key: inner for key, inner in config.items() if isinstance(inner, dict) and "tie_word_embeddings" in inner}
    changed = {key: {**inner, "tie_word_embeddings": False} for key, inner in parts.items()}
    return {**config, **changed, "tie_word_embeddings": False}


def _groups(ties: Mapping[str, str]) -> list[frozenset[str]]:
    groups: dict[str, set[str]] = {}
    for target, source in ties.items():
        joined = groups.get(target, {target}) | groups.get(source, {source})
        groups |= dict.fromkeys(joined, joined)
    return [frozenset(group) for group in {id(group): group for group in groups.values()}.values()]


def _too_large(config: Mapping[str, Any]) -> bool:
    for key, value in config.items():
        if isinstance(value, Mapping) and _too_large(value):
            return True
        if isinstance(value, int) and value > _MOST_LAYERS and any(w in key for w in ("layer", "expert", "block")):
            return True
    return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what transformers says of configs: nothing is loaded here."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
