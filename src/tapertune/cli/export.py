"""``tapertune export``: an adapter in the formats of other programs: PEFT's LoRA, GGUF, MLX, or a whole model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .base_models import find_base
from .merge import print_merge

if TYPE_CHECKING:
    from ..interop import Comparison, ExportReport


def export(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="An adapter's folder.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder.", show_default=False)],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="What to write: lora (PEFT's), gguf (llama.cpp's), mlx (mlx-lm's), or merged, a whole model. Default:"
            " what the server of --for reads, else lora.",
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="SERVER",
            help="Check this server's limits, and print the command that starts it: vllm, sglang, llama.cpp, tgi, mlx.",
        ),
    ] = None,
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
    with_base: Annotated[
        bool,
        typer.Option(
            "--with-base",
            help="Put trained heads, embeddings and biases into a copy of the base, DIR/base; the adapter is for that"
            " base, and without them.",
        ),
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            help="Base model, which tells what modules there are; default: the recorded one. minilm, smollm2"
            " as for train.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="Of a merged model: float32, float16, bfloat16. Default: the base's."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Load the base twice, and compare the logits of the adapter and of the export."),
    ] = False,
    max_difference: Annotated[
        float | None,
        typer.Option(
            "--max-difference",
            help="Largest difference of a logit that --check, which it implies, lets pass. Default: what rounding and"
            " what was cut explain.",
        ),
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option("--push-to-hub", metavar="OWNER/NAME", help="Publish the result on the Hub when all is done."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push-to-hub: for its owner alone.")] = False,
) -> None:
    """Write an adapter for other programs: plain LoRA of one rank, read alike by all servers, GGUF, MLX, or merged."""
    from .. import interop
    from ..interop.hub import check_push, push

    if push_to_hub is not None:
        check_push(push_to_hub)
    values = {"rank": rank, "energy": energy, "max_error": max_error, "check": check, "max_difference": max_difference}
    of_lora = {"round_up": round_up, "ragged": ragged, "experts": experts, "with_base": with_base}
    report = interop.export(
        adapter, out, to=to, server=server, base=None if base is None else find_base(base), dtype=dtype, **values,
        **of_lora,
    )  # fmt: skip
    if isinstance(report, interop.MergeReport):
        print_merge(report)
        _print_comparison(report.comparison)
    else:
        _print(report)
    for line in report.commands:
        typer.echo(f"serve: {line}")
    if push_to_hub is not None:
        typer.echo(f"hub: {push(report.out, push_to_hub, private=private)}")


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
    _print_comparison(report.comparison)
    for note in report.notes:
        typer.echo(f"warning: {note}", err=True)


def _print_comparison(comparison: Comparison | None) -> None:
    if comparison is not None:
        difference, moved = comparison.difference, comparison.moved
        typer.echo(f"check: logits differ by at most {difference:.1e}, where the adapter moves them by {moved:.1e}")


def _span(values: list[int]) -> str:
    if not values:
        return "-"
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"
