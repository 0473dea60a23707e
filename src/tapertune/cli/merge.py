"""``tapertune merge``: the base model's weights with an adapter's update in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .base_models import find_base

if TYPE_CHECKING:
    from ..interop import MergeReport


def merge(
    base: Annotated[
        str,
        typer.Argument(metavar="BASE", help="The base model: a folder, a name on the Hub, or minilm, smollm2."),
    ],
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="An adapter's folder.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.", show_default=False)],
) -> None:
    """Write full weights with the adapter in them, one tensor in memory at a time."""
    from .. import interop

    print_merge(interop.merge(find_base(base), adapter, out))


def print_merge(report: MergeReport) -> None:
    """Prints what a merge wrote."""
    rounding = f"{report.lost:.1e} of the update is below the weights' precision ({report.dtype})"
    rows = {
        "method": report.method,
        "merged": f"{len(report.modules)} modules into {len(report.shards)} files",
        "replaced": ", ".join(report.replaced) or "nothing",
        "added": ", ".join(report.added) or "nothing",
        "rounding": f"{rounding}; {report.rounding:.1e} in the worst module (relative norms)",
        "written to": str(report.out),
    }
    for name, value in rows.items():
        typer.echo(f"{name:<15} {value}")
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
