"""One run at a time in a folder, whichever process it is in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tapertune.errors import TapertuneError
from tapertune.lock import LOCK, check_free, hold, let_go, locked, sweep

HOLDS = (
    "import sys; from pathlib import Path; from tapertune.lock import hold\n"
    "hold(Path(sys.argv[1])); print('here', flush=True); sys.stdin.read()"
)
TRIES = (
    "import sys; from pathlib import Path; from tapertune.lock import hold\n"
    "try: hold(Path(sys.argv[1]))\n"
    "except ValueError as error: print(error)"
)


def _command(code: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-c", code, str(folder)], {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@contextmanager
def held_by_another(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has a folder; it ends at the end, killed."""
    command, environment = _command(HOLDS, folder)
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment, **streams) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "here\n"
        try:
            yield process
        finally:
            process.kill()


def tried_by_another(folder: Path) -> str:
    """What another process is told that wants a folder."""
    command, environment = _command(TRIES, folder)
    return subprocess.run(command, text=True, env=environment, check=True, stdout=subprocess.PIPE).stdout


def test_a_folder_is_kept_until_it_is_let_go(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    hold(folder)
    hold(folder)  # the same process may train there again
    check_free(folder)
    assert f"is in use by process {os.getpid()} on" in tried_by_another(folder)
    let_go(folder)
    assert list(folder.iterdir()) == [] and tried_by_another(folder) == ""
    let_go(folder)


def test_a_run_of_the_command_keeps_what_it_has(tmp_path: Path) -> None:
    hold(tmp_path)  # left by training that failed
    with locked(tmp_path):
        hold(tmp_path), let_go(tmp_path)  # of the callback in its run
        with pytest.raises(TapertuneError, match="in use"):
            check_free(tmp_path)
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert not (tmp_path / LOCK).exists()


def test_a_folder_that_was_deleted_is_locked_anew(tmp_path: Path) -> None:
    hold(tmp_path)
    (tmp_path / LOCK).unlink()
    hold(tmp_path)
    assert "is in use" in tried_by_another(tmp_path)
    let_go(tmp_path)


def test_what_cannot_be_locked_is_told_where_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    hold(tmp_path / "file" / "inside")
    let_go(tmp_path / "file" / "inside")


def test_what_a_killed_process_was_writing_goes_when_nobody_is_there(tmp_path: Path) -> None:
    rest = tmp_path / ".0123456789abcdef.tmp.html"
    rest.write_text("half")
    with held_by_another(tmp_path):
        sweep(tmp_path)
        assert rest.exists()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_copy_of_the_process_does_not_outlive_the_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from tapertune.lock import hold\n"
        "hold(Path(sys.argv[1]))\n"
        "if not os.fork(): print('here', flush=True); sys.stdin.read(); os._exit(0)\n"
        "os.kill(os.getpid(), 9)"
    )
    command, environment = _command(code, tmp_path)
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment, **streams) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "here\n"  # the copy is there, as one that loads data
        assert process.wait() == -9
        hold(tmp_path)
        process.stdin.close()
    let_go(tmp_path)
