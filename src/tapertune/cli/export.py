"""``tapertune export``: an adapter as a plain LoRA adapter, for PEFT without tapertune and for servers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import unknown

if TYPE_CHECKING:
    from ..interop import ExportReport

FORMATS = ("lora",)


def export(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="An adapter's folder.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder.", show_default=False)],
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="What to write: lora.")] = "lora",
    rank: Annotated[
        int | None,
        typer.Option("--rank", help="Rank of all modules; larger ones are cut. Default: the largest that is left."),
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option("--energy", help="Cut each update, and keep this part of its squared norm at least (0.99)."),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option("--max-error", help="Largest relative error of an update, where no lossless form exists (LoRAN)."),
    ] = None,
    round_up: Annotated[
        bool,
        typer.Option("--round-up", help="Round the rank up to one of vLLM's: 1, 8, 16, 32, 64, 128, 256, 320, 512."),
    ] = False,
    ragged: Annotated[
        bool,
        typer.Option("--ragged", help="A rank for each module, none where pruned: smaller; some servers misread it."),
    ] = False,
    experts: Annotated[
        str,
        typer.Option("--experts", help="Stacked experts: stacked, as PEFT has them, or each, by checkpoints' names."),
    ] = "stacked",
    base: Annotated[
        str | None,
        typer.Option("--base", help="Base model, which tells what modules there are; default: the recorded one."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Load the base twice, and compare the logits of the adapter and of the export."),
    ] = False,
) -> None:
    """Write an adapter as a plain PEFT LoRA adapter: one rank, every module of each kind, read alike by all servers."""
    if to not in FORMATS:
        raise unknown("export format", to, FORMATS)
    from ..interop import export_lora

    report = export_lora(
        adapter, out, rank=rank, energy=energy, max_error=max_error, round_up=round_up, ragged=ragged,
        experts=experts, base=base, check=check,
    )  # fmt: skip
    _print(report)


def _print(report: ExportReport) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..interop.completion import kind_of

    table = Table("module", "modules", "rank before", "rank", "relative error", box=None, pad_edge=False)
    groups: dict[str, list] = {}
    for row in report.modules:  # layers in one line where nothing was lost; where something was, each by itself
        groups.setdefault(kind_of(row.module) if report.lossless else row.module, []).append(row)
    for name, rows in groups.items():
        before = _span([row.rank_before for row in rows if row.rank_before is not None])
        error = f"{max(row.error for row in rows):.1e}"
        table.add_row(Text(name), str(len(rows)), before, _span([row.rank for row in rows]), error)
    Console().print(table)
    for module in report.left_out if report.rank is None else []:
        typer.echo(f"left out, its update is zero: {module}")
    kinds = Counter(kind_of(module) for module in report.zeros)
    for name, count in kinds.items():
        typer.echo(f"zeros in {count} modules: {name}")
    if report.saved_beside:
        typer.echo(f"saved beside: {', '.join(report.saved_beside)}")
    kind = "lossless" if report.lossless else "truncated"
    rank = "" if report.rank is None else f", rank {report.rank} in all"
    count = f"{len(report.modules)} modules"
    typer.echo(f"{report.method}: {count}, {kind}, largest relative error {report.worst:.1e}{rank}; in {report.out}")
    if report.comparison is not None:
        difference, moved = report.comparison.difference, report.comparison.moved
        typer.echo(f"check: logits differ by at most {difference:.1e}, where the adapter moves them by {moved:.1e}")
    for note in report.notes:
        typer.echo(f"warning: {note}", err=True)


def _span(values: list[int]) -> str:
    if not values:
        return "-"
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"
