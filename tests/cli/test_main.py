"""Exit codes, and one line for each way of going wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tapertune import TapertuneError, __version__
from tapertune.cli import main as cli_main
from tapertune.cli.hints import usage_hint

ROOT = Path(__file__).parents[2]
COMMANDS = ["train", "demo", "report", "inspect", "methods", "validate"]


def one_line(text: str) -> str:
    assert text.count("\n") == 1, text
    return text.strip()


def test_version(cli: Any) -> None:
    assert cli("--version") == (0, f"tapertune {__version__}\n", "")


def test_help_lists_every_command(cli: Any) -> None:
    for arguments in ([], ["--help"]):
        done = cli(*arguments)
        assert done.code == 0
        assert all(command in done.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_has_help(cli: Any, command: str) -> None:
    import typer

    done = cli(command, "--help")
    assert done.code == 0
    row: Any = typer.main.get_command(cli_main.app).commands[command]  # type: ignore[attr-defined]
    assert row.help, f"{command} has no help"
    without = [parameter.name for parameter in row.params if not parameter.help and parameter.name != "help"]
    assert not without, f"{command}: no help for {without}"


def test_unknown_command_names_the_nearest(cli: Any) -> None:
    done = cli("reprot")
    assert done.code == 2
    assert one_line(done.err).startswith("error: No such command 'reprot'")
    assert "report" in done.err


@pytest.mark.parametrize(("suggestion", "hint"), [("", " Did you mean 'report'?"), (" Did you mean 'report'?", "")])
def test_the_nearest_command_where_typer_does_not_name_it(suggestion: str, hint: str) -> None:
    from types import SimpleNamespace

    import typer

    group: Any = typer.main.get_command(cli_main.app)
    error: Any = SimpleNamespace(
        ctx=SimpleNamespace(command=group), format_message=lambda: f"No such command 'reprot'.{suggestion}"
    )
    assert usage_hint(error, ["--debug", "reprot", "runs"]) == hint


def test_unknown_option_is_a_usage_error(cli: Any) -> None:
    done = cli("methods", "--jsn")
    assert done.code == 2
    assert "--jsn" in one_line(done.err)
    assert "tapertune methods --help" in done.err


def test_missing_argument_is_a_usage_error(cli: Any) -> None:
    done = cli("inspect")
    assert done.code == 2
    assert "ADAPTER" in one_line(done.err)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (TapertuneError("r is 0;\nit must be positive"), 2, "error: r is 0; it must be positive"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (RuntimeError("out of\nmemory"), 1, "error: RuntimeError: out of memory"),
    ],
)
def test_errors_become_exit_codes(
    cli: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("tapertune.methods.get_method", fail)
    done = cli("methods", "lora")
    assert done.code == code
    assert one_line(done.err).startswith(message)


@pytest.mark.parametrize("by", ["option", "environment"])
def test_debug_prints_the_traceback(cli: Any, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    if by == "environment":
        monkeypatch.setenv(cli_main.DEBUG, "1")
    done = cli(*(["--debug"] if by == "option" else []), "methods", "nonesuch")
    assert done.code == 2
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("error: unknown method 'nonesuch'")


def test_installed_script_ends_with_the_same_code() -> None:
    script = Path(sys.executable).with_name("tapertune")
    done = subprocess.run([script, "methods", "aflroa"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert one_line(done.stderr).startswith("error: unknown method 'aflroa': did you mean 'aflora'? Allowed: ")


@pytest.mark.parametrize("script", ["docs/generate_cli.py", "docs/generate_methods.py"])
def test_generated_pages_are_current(script: str) -> None:
    done = subprocess.run([sys.executable, script, "--check"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
