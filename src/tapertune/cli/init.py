"""``tapertune init``: a run file for a data file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import TapertuneError, unknown

_SHARE = 0.1  # of the rows, held out where no file is named


def init(
    data: Annotated[Path, typer.Argument(metavar="FILE", help="Your rows: CSV, JSON lines, JSON or Parquet.")],
    out: Annotated[Path, typer.Option("--out", metavar="RUN.yaml", help="The run file to write.")] = Path("run.yaml"),
    validation: Annotated[
        Path | None, typer.Option("--validation", metavar="FILE", help="Rows to score. [default: a tenth of FILE]")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Column of the text. [default: of the longest texts]")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label. [default: by name or values]")] = None,
    model: Annotated[str, typer.Option(help="The base model.")] = "minilm",
    method: Annotated[str, typer.Option(help="A method, or full or head.")] = "aflora",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run file that is there.")] = False,
) -> None:
    """Write a run file for your data file: its task and columns are guessed, and every setting has a comment."""
    from ..files import write_text
    from ..methods import METHODS
    from ..runfile.settings import BASELINES
    from ..runfile.template import run_file_text
    from ..tasks.csv_files import CsvFormat
    from ..tasks.guess import guess_task
    from ..tasks.sniff import open_data

    if method not in (known := [*METHODS, *BASELINES]):
        raise unknown("method", method, known)
    if out.exists() and not overwrite:
        raise TapertuneError(f"--out is {str(out)!r}, which is there already: --overwrite replaces it")
    guess = guess_task(open_data(data, CsvFormat()), text, label)
    if validation is not None:
        open_data(validation, CsvFormat()).first()
    content = run_file_text(
        guess, name=f"{method}-{data.name.partition('.')[0]}", train=str(data),
        validation=_SHARE if validation is None else str(validation), model=model, method=method,
    )  # fmt: skip
    write_text(out, content)
    columns = ", ".join(f"{key} {column!r}" for key, column in guess.fields.items())
    typer.echo(f"{out}: {guess.task} with {columns}\nLook through it, then: tapertune train {out}")
