"""The command, as its script and as ``python -m tapertune``; a line says so where a package it needs is missing."""

from __future__ import annotations

import sys


def main() -> int:
    """Runs the command; its exit code."""
    try:
        from .cli.main import main as command
    except ModuleNotFoundError as error:
        if (error.name or "tapertune").partition(".")[0] == "tapertune":
            raise
        print(
            f"error: the command needs {error.name}, which is not installed (training through PEFT does without): "
            "install tapertune with its dependencies",
            file=sys.stderr,
        )
        return 1
    return command()


if __name__ == "__main__":
    sys.exit(main())
