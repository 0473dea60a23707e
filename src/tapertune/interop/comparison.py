"""The logits of a base model with one of tapertune's adapters, and with its export: a forward pass through each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import TapertuneError
from .saved import SavedAdapter

_HEADS = ("classifier", "score", "classification_head")
_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Largest differences of a logit (of a hidden state, for a model without a head), on random inputs in float32.

    Attributes:
        difference: between the base with the adapter and the base with the export.
        moved: between the base with the adapter and the base alone.
        largest: the largest magnitude of a logit.
    """

    difference: float
    moved: float
    largest: float

    def limit(self, lost: float, dtype: torch.dtype) -> float:
        """The largest difference that the updates' errors and the weights' dtype explain.

        Args:
            lost: the largest relative error (Frobenius) of a module's update: a rank that was cut, or rounding.
            dtype: of what was written.
        """
        return (1e-5 + torch.finfo(dtype).eps) * self.largest + (1e-2 + 4 * lost) * self.moved

    def check(self, lost: float, largest: float | None = None, dtype: torch.dtype = torch.float32) -> None:
        """Raises TapertuneError where the export's logits differ by more than ``largest``, by default ``limit``."""
        allowed = self.limit(lost, dtype) if largest is None else largest
        if not self.difference <= allowed:
            raise TapertuneError(
                f"the export gives other logits than the adapter: they differ by up to {self.difference:.1e}, where"
                f" {allowed:.1e} is allowed and the adapter moves them by {self.moved:.1e}; nothing was written"
            )


def compare_logits(
    adapter_dir: Path,
    base: str,
    adapter: SavedAdapter,
    model_class: Any,
    load_export: Callable[[], Any],
    dtype: torch.dtype = torch.float32,
) -> Comparison:
    """Loads the base with the adapter in it, and what ``load_export`` gives, one after the other.

    Args:
        adapter_dir: the adapter's folder.
        base: its base model, folder or name.
        adapter: what the folder holds.
        model_class: of transformers, that has the adapter's module paths.
        load_export: gives the model to compare.
        dtype: that the export's base has: the weights of the base are rounded to it first.

    Raises:
        TapertuneError: the base's weights cannot be read, or it takes inputs that are not known here.
    """
    from peft import PeftModel

    if model_class is None:
        raise TapertuneError(
            f"logits cannot be compared: no class of transformers builds {base!r} with the adapter's module paths"
        )
    plain = load_base(base, adapter, model_class).to(dtype).float()
    inputs = _inputs(plain)
    alone = _logits(plain, inputs)
    expected = _logits(PeftModel.from_pretrained(plain, adapter_dir), inputs)
    del plain
    exported = _logits(load_export(), inputs)
    return Comparison(
        difference=(exported - expected).abs().max().item(),
        moved=(expected - alone).abs().max().item(),
        largest=expected.abs().max().item(),
    )


def load_base(base: str, adapter: SavedAdapter, model_class: Any) -> Any:
    """A model in float32, with as many classes as the head that was saved with the adapter has.

    Raises:
        TapertuneError: its files cannot be read.
    """
    labels = _label_count(adapter)
    # a head of another size than the base's comes with the adapter
    sizes = {} if labels is None else {"num_labels": labels, "ignore_mismatched_sizes": True}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # a head that the base does not have starts the same each time
            model = model_class.from_pretrained(base, revision=adapter.config.revision, dtype=torch.float32, **sizes)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise TapertuneError(f"the base model {base!r} cannot be loaded to compare logits: {reason}") from error
    return model.eval()


def _label_count(adapter: SavedAdapter) -> int | None:
    """How many classes a head that was saved with the adapter has: its last matrix is the one of fewest rows."""
    rows = [t.shape[0] for name, t in adapter.extras.items() if name.split(".")[0] in _HEADS and t.dim() == 2]
    return min(rows, default=None)


def _inputs(model: Any) -> dict[str, Tensor]:
    config, name = model.config, model.main_input_name
    generator = torch.Generator().manual_seed(0)
    inputs: dict[str, Tensor] = {}
    if name == "input_ids":
        text = config.get_text_config()
        length = min(_TOKENS, getattr(text, "max_position_embeddings", None) or _TOKENS)
        inputs[name] = torch.randint(0, text.vocab_size, (1, length), generator=generator)
        inputs["attention_mask"] = torch.ones_like(inputs[name])
    elif name == "pixel_values":
        size = config.image_size if isinstance(config.image_size, list | tuple) else [config.image_size] * 2
        inputs[name] = torch.randn(1, config.num_channels, *size, generator=generator)
    elif name == "input_features":
        frames = 2 * config.max_source_positions
        inputs[name] = torch.randn(1, config.num_mel_bins, frames, generator=generator)
    else:
        raise TapertuneError(f"logits cannot be compared: inputs called {name!r} are not known")
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.full((1, 4), config.decoder_start_token_id or 0)
    return inputs


@torch.no_grad()
def _logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    return model.eval()(**inputs)[0].double()
