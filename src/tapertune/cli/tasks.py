"""``tapertune tasks``: what can be learned."""

from __future__ import annotations

import inspect as signatures

import typer


def tasks() -> None:
    """List the tasks: their columns, what is measured, and the settings of those over your own files."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..tasks import OWN, TASKS

    own = Table("your own files", "settings (task.NAME)", box=None, pad_edge=False)
    for name, make in OWN.items():
        own.add_row(name, Text(", ".join(signatures.signature(make).parameters)))
    known = Table("data set", "text", "label", "metrics", "title", box=None, pad_edge=False)
    for task in TASKS.values():
        known.add_row(task.name, ", ".join(task.text), task.label, ", ".join(task.metrics), Text(task.title))
    console = Console()
    console.print(own)
    console.print()
    console.print(known)
    typer.echo("\nA run file for your own data: tapertune init FILE")
