"""``tapertune schema``: what a run file may hold, for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def schema(
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="File to write. [default: the standard output]")
    ] = None,
    grid: Annotated[bool, typer.Option("--grid", help="Of the files of `tapertune compare`.")] = False,
) -> None:
    """Write the JSON schema of run files, by which editors complete and check them.

    Recipes and the files of `tapertune init` name the one that is installed, in their first line.
    """
    from ..files import write_text

    if grid:
        from ..compare.schema import grid_schema_text as schema_text
    else:
        from ..runfile.schema import schema_text

    if out is None:
        typer.echo(schema_text(), nl=False)
    else:
        write_text(out, schema_text())
        typer.echo(str(out))
