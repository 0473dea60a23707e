"""What is compared with what, and what it is meant to cost, a row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SMALL, LARGE, DECODER = "bert-6x384", "bert-12x768", "llama-8x1024"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of ``COMPARISON``.

    Attributes:
        title: of the row.
        ours, theirs: variants; ``theirs`` is None where nobody else has one.
        ratio: targets for the ratio to the floor, by model.
        megabytes: targets for what is saved for backward beyond the floor's, by model.
        within: a variant that ours may exceed by so large a part, instead of a ratio to the floor.
    """

    title: str
    ours: str
    theirs: str | None = None
    ratio: Mapping[str, float] = field(default_factory=dict)
    megabytes: Mapping[str, float] = field(default_factory=dict)
    within: tuple[str, float] | None = None


def _both(small: float, large: float) -> dict[str, float]:
    return {SMALL: small, LARGE: large}


COMPARISON = (
    Row(title="LoRA r=8", ours="ours-lora", theirs="peft-lora", ratio=_both(1.12, 1.07), megabytes=_both(3, 3)),
    Row(title="LoRA r=8, dropout 0.1", ours="ours-lora-dropout", theirs="peft-lora-dropout", ratio=_both(1.25, 1.15)),
    Row(title="AdaLoRA r=12, all of its step", ours="ours-adalora", theirs="peft-adalora", ratio=_both(1.13, 1.10)),
    Row(title="AdaLoRA, pruned to 8", ours="ours-adalora-pruned", within=("ours-adalora-built", 0.03)),
    Row(title="AFLoRA r=4", ours="ours-aflora", theirs="naive-aflora", ratio=_both(1.13, 1.09)),
    Row(title="AFLoRA r=4, A frozen", ours="ours-aflora-frozen-a"),
    Row(
        title="AFLoRA r=4, A and B frozen", ours="ours-aflora-frozen", theirs="naive-aflora-frozen",
        ratio=_both(1.07, 1.03), megabytes=_both(0, 0),
    ),
    Row(
        title="LoRA^2 r=8 k=8", ours="ours-lora2", theirs="naive-lora2",
        ratio=_both(1.13, 1.09), megabytes=_both(5, 5),
    ),
    Row(title="LoRAN r=8", ours="ours-loran", theirs="naive-loran", ratio={SMALL: 1.5}, megabytes={SMALL: 55}),
    Row(title="ELoRA (VeRA) r=256", ours="ours-elora-256", theirs="peft-vera-256", ratio={SMALL: 1.6}),
    Row(title="ELoRA (VeRA) r=1024", ours="ours-elora-1024", theirs="peft-vera-1024", ratio={SMALL: 2.0}),
    Row(title="SoRA r=8", ours="ours-sora"),
)  # fmt: skip
