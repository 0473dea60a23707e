"""Prints constraints that hold each requirement of pyproject.toml to its floor, for `make test-lowest`."""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def lowest(project: str) -> list[str]:
    """One line for each requirement of the form ``"name>=version"``."""
    return [f"{name}=={version}" for name, version in re.findall(r'"([\w-]+)>=([\d.]+)"', project)]


if __name__ == "__main__":
    print("\n".join(lowest(PROJECT.read_text(encoding="utf-8"))))
