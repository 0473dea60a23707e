"""A finished run in a few words, for the terminal."""

from __future__ import annotations

from .record import LayerCacheCounts, Record


def summary(record: Record) -> list[tuple[str, str]]:
    """What is measured, and its value, in the order in which it is shown."""
    assert record.status == "done", "only a finished run has results"
    assert record.score and record.parameters and record.time and record.memory and record.flops
    score, count = record.score, record.parameters
    low, high = score.interval
    rows = (record.rows or {}).get("train")
    missing = rows.bad + rows.left_out if rows else 0
    return [
        (score.metric, f"{score.value:.3f}"),
        ("95% interval", f"{low:.3f} to {high:.3f}"),
        *([("rows trained on", f"{rows.rows - missing:,} of {rows.rows:,}")] if rows and missing else []),
        ("parameters at start", f"{count.start:,}"),
        ("averaged over training", f"{count.average:,.0f}"),
        ("at the end", f"{count.end:,}"),
        ("head parameters", f"{count.head:,}"),
        *([("steps left out (not finite)", f"{record.skipped_steps:,}")] if record.skipped_steps else []),
        *([("rows that began above frozen layers", _cached(record.cache))] if record.cache else []),
        ("training time", f"{record.time.train_seconds:.0f} s"),
        ("training FLOPs", f"{record.flops.total:.3g}"),
        ("peak memory", f"{record.memory.peak_rss_bytes / 2**20:,.0f} MiB"),
        (
            "optimizer state",
            f"{_kib(record.memory.optimizer_bytes_start)} to {_kib(record.memory.optimizer_bytes_end)}",
        ),
        ("adapter file", _kib(record.adapter_bytes or 0)),
    ]


def _cached(counts: LayerCacheCounts) -> str:
    """How many rows, where they began at the end, what is kept of them, and what was switched off for it."""
    if counts.off is not None:
        return f"none: {counts.off}"
    size = (counts.memory_bytes + counts.disk_bytes) / 2**20
    off = ", dropout off in frozen layers" if counts.dropout == "off" else ""
    return f"{100 * counts.hit_rate:.0f}%, at the end at layer {counts.layer} of {counts.layers}; {size:,.1f} MiB{off}"


def _kib(size: int) -> str:
    return f"{size / 2**10:,.0f} KiB"
