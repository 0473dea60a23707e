"""A session with every variant in both BERTs, without measuring."""

from __future__ import annotations

from tapertune.benchmark.schema import Bin, Counts, FullRun, Growth, Measurement, Origin, Session, Spread
from tapertune.benchmark.setting import Setting
from tapertune.benchmark.variants import VARIANTS
from tapertune.runfile.record import Git, Hardware

ORIGIN = Origin(source="0123", git=Git(commit="c0ffee" * 6, dirty=True))


def spread(median: float) -> Spread:
    return Spread(median=median, low=median - 0.01, high=median + 0.02, rounds=7)


def measurement(model: str, variant: str, ratio: float) -> Measurement:
    counts = Counts(
        saved_bytes=100 * 2**20, flops=10**9, flops_declared=None, kernel_nodes=3, trained=10, optimizer_bytes=2048
    )
    return Measurement(
        model=model, subject=variant, origin=ORIGIN, seconds=spread(0.5), ratio=spread(ratio), counts=counts,
        saved_bytes_beyond=54 * 2**20, flops_beyond=2 * 10**9, controller_seconds=0.005, peak_rss_bytes=300 * 2**20,
    )  # fmt: skip


def session() -> Session:
    made = Session(
        hardware=Hardware(cpu="a cpu", cores=2, threads=1, memory_gb=8.0, gpu=None),
        versions={"torch": "2.13", "transformers": "5.23", "peft": "0.21"},
        setting=Setting.model_validate({}),
    )
    for model in ("bert-6x384", "bert-12x768"):
        made.measurements += [measurement(model, name, 1 + i / 100) for i, name in enumerate(VARIANTS)]
    bins = [Bin(first=10 * i, last=10 * i + 9, ratio=spread(1.5 - i / 10), trained=100 - i) for i in range(3)]
    made.tapers = [FullRun(model="bert-6x384", subject="ours-aflora", origin=ORIGIN, steps=30, bins=bins)]
    made.growths = [
        Growth(
            model="bert-12x768", subject="ours-adalora", origin=ORIGIN, modules=72, controller_seconds=0.0162,
            optimizer_seconds=0.0045,
        )
    ]  # fmt: skip
    return made
