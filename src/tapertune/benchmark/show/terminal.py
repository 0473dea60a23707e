"""What was measured, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ..schema import Measurement, Session, Spread

_HEADS = (
    "subject", "ratio to floor", "ms", "MB beyond floor", "optimizer KB", "peak MB beyond", "GFLOP beyond", "declared",
    "nodes", "controller",
)  # fmt: skip


def tables(session: Session, models: Sequence[str], variants: Sequence[str]) -> list[Table]:
    """A table for each model, of the variants that were measured in it."""
    rendered = []
    for model in models:
        rows = [m for name in variants if (m := session.find(model, name)) is not None]
        table = Table(*_HEADS, title=f"{model}; {session.setting.describe()}", title_justify="left", box=None)
        for column in table.columns[1:]:
            column.justify = "right"
        floor = next((m for m in rows if m.subject == "floor"), None)
        for row in rows:
            table.add_row(*cells(row, floor))
        rendered.append(table)
    return rendered


def cells(row: Measurement, floor: Measurement | None) -> list[str]:
    """A measurement in the table's words."""
    counts, share = row.counts, row.controller_share
    return [
        row.subject,
        with_range(row.ratio),
        f"{row.seconds.median * 1e3:,.0f}",
        f"{row.saved_bytes_beyond / 2**20:+,.1f}",
        f"{counts.optimizer_bytes / 2**10:,.0f}",
        peak_beyond(row, floor),
        f"{row.flops_beyond / 1e9:,.2f}",
        "" if counts.flops_declared is None else f"{counts.flops_declared / 1e9:,.2f}",
        str(counts.kernel_nodes),
        "" if share is None else f"{share:.1%}",
    ]


def with_range(spread: Spread) -> str:
    """
    >>> with_range(Spread(median=1.163, low=1.15, high=1.182, rounds=7))
    '1.16 [1.15-1.18]'
    """
    return f"{spread.median:.2f} [{spread.low:.2f}-{spread.high:.2f}]"


def peak_beyond(row: Measurement, floor: Measurement | None) -> str:
    """Peak memory beyond the floor's, in MB; empty where either was not measured."""
    for name in ("peak_rss_bytes", "peak_device_bytes"):
        mine, base = getattr(row, name), getattr(floor, name, None)
        if mine is not None and base is not None:
            return f"{(mine - base) / 2**20:+,.0f}"
    return ""
