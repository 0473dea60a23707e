"""``tapertune evaluate``: the score of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .applying import progress_bar, task_options, tell

if TYPE_CHECKING:
    from ..train.measure import Measured


def evaluate(
    context: typer.Context,
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of an adapter or a model.")],
    task: Annotated[str | None, typer.Option(help="The task. [default: the one it was trained on]")] = None,
    data: Annotated[str | None, typer.Option(help="Folder of the data; sample for the one that is shipped.")] = None,
    base: Annotated[str | None, typer.Option(help="Base model. [default: the one that the adapter names]")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows of a batch. [default: as in training]")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the metrics to this file (JSON).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out rows that cannot be used.")] = False,
) -> None:
    """Evaluate an adapter of any method, or a whole model, merged or not.

    Settings of the task are options too, by dotted name: --task.validation FILE --task.max_length 256
    """
    from ..train import evaluation
    from ..train.distributed import is_first

    if out is not None:
        evaluation.check_out(out, overwrite=overwrite)
    given = task_options(context, data=data, skip_bad_rows=skip_bad_rows)
    with progress_bar("evaluating") as start:
        chosen, scores, notes = evaluation.evaluate(
            adapter, task=task, base=base, batch_size=batch_size, start=start, **given
        )
    if not is_first():
        return
    tell(notes)
    for split, measured in scores.items():
        low, high = measured.score.interval
        typer.echo(f"{chosen.name} {split}: {measured.score.count} rows")
        for name, value in measured.metrics.items():
            interval = f"  (95% interval {low:.4f} to {high:.4f})" if name == measured.score.metric else ""
            typer.echo(f"  {name:<18} {value:.4f}{interval}")
    if out is not None:
        _write(out, chosen.name, scores)


def _write(out: Path, task: str, scores: dict[str, Measured]) -> None:
    from ..files import write_json

    splits: dict[str, Any] = {
        name: {"metrics": measured.metrics, "score": measured.score.model_dump(mode="json")}
        for name, measured in scores.items()
    }
    write_json(out, {"task": task, "splits": splits})
