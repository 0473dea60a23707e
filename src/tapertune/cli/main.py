"""The command line: what commands there are, and how each way of ending becomes an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from ..errors import TapertuneError, printable
from ..redaction import hide_in_text
from ..train.openmp import begin
from .bench import bench
from .compare import compare
from .demo import demo
from .evaluate import evaluate
from .export import export
from .hints import normalised, usage_hint
from .import_ import import_
from .init import init
from .inspect import inspect
from .merge import merge
from .methods import methods
from .plan import plan
from .predict import predict
from .recipes import recipes
from .report import report
from .schema import schema
from .tasks import tasks
from .train import Interrupted, train
from .tune import tune
from .validate import validate

DEBUG = "TAPERTUNE_DEBUG"
INTERRUPTED = 130

app = typer.Typer(
    name="tapertune",
    help="Adaptive low-rank fine-tuning: training itself decides what is worth training.",
    rich_markup_mode=None,  # help texts hold square brackets, which are no markup
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tapertune {version('tapertune')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", envvar=DEBUG, help="Print the traceback of an error.")] = False,
) -> None:
    if debug:
        os.environ[DEBUG] = "1"  # read where errors are reported, and by processes that a command starts
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


# Any setting of a run file is an option of these, by its dotted name: they sort them out themselves.
_SETTINGS: dict[Callable[..., None], dict[str, Any]] = {
    command: {"allow_extra_args": True, "ignore_unknown_options": True}
    for command in (init, train, tune, plan, evaluate, predict)
}

_COMMANDS = (
    init, train, tune, plan, compare, evaluate, predict, demo, report, inspect, export, import_, merge, methods, tasks,
    recipes, validate, schema, bench,
)  # fmt: skip

for _command in _COMMANDS:
    _summary = (_command.__doc__ or "").partition("\n")[0]  # else the list of commands cuts it short
    _name = _command.__name__.rstrip("_")  # import is a keyword
    _context = {"token_normalize_func": normalised, **_SETTINGS.get(_command, {})}
    app.command(_name, short_help=_summary, context_settings=_context)(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code; an error is one line on stderr."""
    begin()
    try:
        code = app(args=arguments, prog_name="tapertune", standalone_mode=False)
    except TapertuneError as error:
        return _fail(str(error), 2)
    except Interrupted as error:
        return _fail(str(error), error.code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        usage = getattr(error, "format_message", None)  # typer's usage errors, under whichever click it stands on
        if usage is not None:
            hint = usage_hint(error, sys.argv[1:] if arguments is None else arguments)
            return _fail(f"{usage()}{hint} (see `{_help_command(error)}`)", getattr(error, "exit_code", 2))
        hint = "" if _debug() else " (for the traceback: tapertune --debug ...)"
        return _fail(f"{type(error).__name__}: {error}{hint}", 1)
    code = code if isinstance(code, int) else 0
    if code == INTERRUPTED:
        return _fail("interrupted", INTERRUPTED)
    return code


def _debug() -> bool:
    return os.environ.get(DEBUG, "") not in ("", "0")


def _help_command(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'tapertune'} --help"


def _fail(message: str, code: int) -> int:
    if _debug() and code != INTERRUPTED:
        traceback.print_exc()
    typer.secho("error: " + hide_in_text(" ".join(printable(message).split())), fg=typer.colors.RED, err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
