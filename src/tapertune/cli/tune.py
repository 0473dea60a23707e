"""``tapertune tune``: searches a run file's rate, and more where asked, and writes the tuned run file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tune(
    context: typer.Context,
    config: Annotated[str, typer.Argument(metavar="FILE", help="Run file (YAML) or recipe.", show_default=False)],
    trials: Annotated[int, typer.Option(min=1, help="Runs in all, those of earlier sittings among them.")] = 10,
    minutes: Annotated[float | None, typer.Option(help="Begin no trial after so many minutes.")] = None,
    rank: Annotated[bool, typer.Option("--rank", help="Search the rank too: a half of it to four times.")] = False,
    setting: Annotated[
        bool, typer.Option("--setting", help="Search the setting too that decides most for the method.")
    ] = False,
    output_dir: Annotated[
        Path | None, typer.Option(help="The search's folder. [default: the run's, with -tune behind it]")
    ] = None,
) -> None:
    """Search the learning rate by short runs on rows held out of the training file, and write the tuned run file.

    The first trial has the rate of the rule (auto). A search that was stopped goes on where it was. Settings of the run
    are options by their dotted names, as for train. Needs Optuna: pip install optuna.
    """
    from ..errors import TapertuneError
    from ..runfile.recipes import run_file
    from ..runfile.settings import check_settings, with_overrides
    from ..runfile.yamlfile import parse_overrides, read
    from ..train.tune import tune as search

    dotted, rest = parse_overrides(context.args)
    if rest:
        raise TapertuneError(f"one run file, not {1 + len(rest)}: {', '.join([config, *rest])}")
    raw = with_overrides(read(run_file(config)), dotted)
    folder = output_dir or Path(f"{check_settings(raw).output_dir}-tune")
    found = search(
        raw, folder, trials=trials, minutes=minutes, rank=rank, key_setting=setting, say=lambda line: typer.echo(line)
    )
    best = ", ".join(f"{name} {value}" for name, value in found.values.items())
    typer.echo(f"\nbest of {found.trials} trials: {found.metric} {found.score:.4f} with {best}")
    typer.echo(f"tuned run file: {found.file}\ntrain it: tapertune train {found.file}")
