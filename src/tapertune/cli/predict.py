"""``tapertune predict``: a trained model's answers, file in, file out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .applying import progress_bar, task_options, tell


def predict(
    context: typer.Context,
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of an adapter or a model.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Rows: JSON lines, CSV or Parquet.")],
    out: Annotated[Path, typer.Option(help="File to write: .jsonl, .csv or .tsv.", show_default=False)],
    task: Annotated[str | None, typer.Option(help="The task. [default: the one it was trained on]")] = None,
    base: Annotated[str | None, typer.Option(help="Base model. [default: the one that the adapter names]")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows of a batch. [default: as in training]")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file, and columns called as those of answers.")
    ] = False,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out rows that cannot be used.")] = False,
) -> None:
    """Write a file's rows with the answers of an adapter of any method, or of a whole model.

    Settings of the task are options too, by dotted name: --task.text COLUMN --task.max_length 256
    """
    from ..train import evaluation
    from ..train.distributed import is_first

    given = task_options(context, skip_bad_rows=skip_bad_rows)
    with progress_bar("predicting") as start:
        count, notes = evaluation.predict(
            adapter, file, out, task=task, base=base, batch_size=batch_size, overwrite=overwrite, start=start, **given
        )
    if not is_first():
        return
    tell(notes)
    typer.echo(f"{count} rows written to {out}")
