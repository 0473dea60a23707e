"""Writes what servers gave for exports, in benchmarks/servers/*.json, as the table of docs/interop.md; no measurement.

The files are left by ``make test-servers``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "interop.md"
BEGIN, END = "<!-- servers: benchmarks/servers.py -->", "<!-- end of servers -->"


def table(results: list[dict[str, Any]]) -> str:
    """The rows as Markdown: one for each server and method."""
    heads = ("server", "model", "adapter", "largest difference", "moved by the adapter", "greedy text")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in results:
        text = "equal" if row["greedy_text_equal"] else "differs"
        moved = "-" if row["method"] == "base" else f"{row['moved']:.2g}"
        name = "none" if row["method"] == "base" else row["method"]
        server = f"{row['server']} ({row['version']})"
        lines.append(f"| {server} | {row['model']} | {name} | {row['largest_difference']:.1e} | {moved} | {text} |")
    return "\n".join(lines)


def main() -> None:
    results = [row for path in sorted((HERE / "servers").glob("*.json")) for row in json.loads(path.read_text())]
    page = PAGE.read_text(encoding="utf-8")
    between = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    PAGE.write_text(between.sub(lambda found: f"{BEGIN}\n{table(results)}\n{END}", page), encoding="utf-8")


if __name__ == "__main__":
    main()
