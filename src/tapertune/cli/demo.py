"""``tapertune demo``: LoRA and AFLoRA side by side on a small model and data that are at hand, offline."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import TapertuneError

if TYPE_CHECKING:
    from ..runfile.record import Record

ARMS = {"lora": "demo-lora", "aflora": "demo-aflora"}
FIRST, SECOND = ARMS


def demo(
    output_dir: Annotated[Path, typer.Option(help="Folder of the two runs and their report.")] = Path("runs/demo"),
    steps: Annotated[int | None, typer.Option(min=2, help="Train so many steps only, for a quick look.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed. [default: the recipes' 42]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete an earlier demo in the folder.")] = False,
) -> None:
    """Train LoRA and AFLoRA on a sample of QNLI and compare them: minutes, no network."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client
    from ..report import write_html
    from ..runfile.record import read_record

    folders = {name: output_dir / name for name in ARMS}
    settings = _prepare(folders, steps, seed, overwrite=overwrite)
    for name in ARMS:
        typer.echo(f"{name}: {settings[name]['name']}, in a process of its own so that its memory is its alone")
        _run_arm(name, settings[name])
        if name == FIRST:  # both with as many threads, so that their times can be compared
            settings[SECOND]["threads"] = read_record(folders[FIRST]).hardware.threads

    report = write_html(list(folders.values()), output_dir / "report.html")
    _show({name: read_record(folder) for name, folder in folders.items()})
    typer.echo(f"\nreport: {report}")


def _prepare(
    folders: dict[str, Path], steps: int | None, seed: int | None, *, overwrite: bool
) -> dict[str, dict[str, Any]]:
    """Checked settings of both arms; their folders are free when this returns."""
    from ..runfile.recipes import find_recipe
    from ..runfile.settings import load_settings
    from ..train.models import find_model
    from ..train.run_folder import check_new, clear

    settings: dict[str, dict[str, Any]] = {}
    for name, folder in folders.items():
        overrides: dict[str, Any] = {"output_dir": str(folder)}
        if steps is not None:
            overrides["training.max_steps"] = steps
        if seed is not None:
            overrides["seed"] = seed
        checked = load_settings(find_recipe(ARMS[name]), overrides)
        find_model(checked.model)
        check_new(folder, overwrite=overwrite)
        settings[name] = checked.resolved()
    for folder in folders.values():
        clear(folder)
    return settings


def _run_arm(name: str, settings: dict[str, Any]) -> None:
    """Runs an arm. Ctrl-C is passed on to it, once, and it is waited for: it then ends in good order."""
    command = [sys.executable, "-m", "tapertune.train"]
    # In a session of its own the arm does not get the terminal's Ctrl-C beside ours.
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            process.communicate(json.dumps(settings))
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    if process.returncode == 2:
        raise TapertuneError(f"the demo's {name} run cannot be made")
    if process.returncode == 130:
        raise KeyboardInterrupt
    if process.returncode:
        raise RuntimeError(f"the demo's {name} run failed (exit code {process.returncode})")


def _show(records: dict[str, Record]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..runfile.summary import summary

    table = Table("", *(f"{name} r={record.settings['method']['r']}" for name, record in records.items()), box=None)
    for rows in zip(*(summary(record) for record in records.values()), strict=True):
        table.add_row(rows[0][0], *(value for _, value in rows))
    Console().print(table)
