"""``tapertune init``: a run file for a data file, or an adapter to start from for a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import TapertuneError, unknown

_SHARE = 0.1  # of the rows, held out where no file is named


def init(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="FILE|MODEL", help="Your rows (CSV, JSON lines, JSON or Parquet), or a base model.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PATH", help="Where to write. [default: run.yaml; for MODEL: start]")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option("--validation", metavar="FILE", help="Rows to score. [default: a tenth of FILE]")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Column of the text. [default: of the longest texts]")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label. [default: by name or values]")] = None,
    model: Annotated[str | None, typer.Option(help="The run file's base model. [default: minilm]")] = None,
    method: Annotated[str, typer.Option(help="A method; for a run file also full or head.")] = "aflora",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Write a run file for your data file: its task and columns are guessed, and every setting has a comment.

    With a base model in place of the data file: write an adapter that has not trained yet, for programs that go on from
    an adapter but make none of these methods themselves. --method.r 4 and so on are fields of its config.
    """
    from ..runfile.yamlfile import parse_overrides
    from ..tasks.files import suffix_of

    dotted, rest = parse_overrides(context.args)
    if rest:
        raise TapertuneError(f"what is {rest[0]!r}? The command takes one FILE or MODEL")
    of_a_file = {"--validation": validation, "--text": text, "--label": label, "--model": model}
    if Path(what).is_file() or suffix_of(Path(what)) is not None:
        if dotted:
            raise TapertuneError(f"--{min(dotted)} goes with a MODEL: set it in the run file that is written")
        _run_file(Path(what), out or Path("run.yaml"), validation, text, label, model or "minilm", method, overwrite)
        return
    given = [option for option, value in of_a_file.items() if value is not None]
    if given:
        raise TapertuneError(f"{given[0]} goes with a data file, and there is no file {what!r}")
    _start(what, out or Path("start"), method, dotted, overwrite)


def _start(model: str, out: Path, method: str, dotted: dict[str, Any], overwrite: bool) -> None:
    from ..methods import get_method

    row = get_method(method)
    others = [name for name in dotted if name.partition(".")[0] != "method" or "." not in name]
    if others:
        raise TapertuneError(f"--{others[0]} is no setting of an adapter: those are --method.NAME")
    values = {name.partition(".")[2]: value for name, value in dotted.items()}
    from ..train.start_adapter import write_start

    task = write_start(model, row.name, out, values, overwrite=overwrite)
    typer.echo(
        f"{out}: {row.title} on {model}, {task or 'of no task'}, not trained yet\n"
        "Where a program goes on from it, TAPERTUNE_CALLBACK=1 in the environment has the method's plan run"
    )


def _run_file(
    data: Path, out: Path, validation: Path | None, text: str | None, label: str | None, model: str, method: str,
    overwrite: bool,
) -> None:  # fmt: skip
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
