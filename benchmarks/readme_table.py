"""Fills the table in README.md from the runs of a demo: ``python benchmarks/readme_table.py DEMO_FOLDER``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from tapertune.errors import TapertuneError
from tapertune.files import write_text
from tapertune.report import RunData, comparison_rows, load_runs

README = Path(__file__).resolve().parents[1] / "README.md"
BETWEEN = re.compile(r"(?<=<!-- demo-table:start -->\n).*?(?=<!-- demo-table:end -->)", re.DOTALL)


def find_runs(folder: Path) -> list[RunData]:
    """The finished runs in a demo's folder.

    Raises:
        TapertuneError: there is none, or one that did not end.
    """
    runs = load_runs(sorted(path.parent for path in folder.rglob("run.json")))
    unfinished = [run.name for run in runs if run.status != "done"]
    if unfinished:
        raise TapertuneError(f"{unfinished[0]} is not done; run the demo to its end first")
    return sorted(runs, key=lambda run: (run.method == "aflora", run.name))


def table(runs: list[RunData]) -> str:
    rows = comparison_rows(runs)
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def note(run: RunData) -> str:
    """What the figures were measured on."""
    hardware: Any = run.section("hardware")
    versions: Any = run.section("versions")
    count = f" Scores are on {run.score.count:,} examples, with 95% intervals." if run.score and run.score.count else ""
    threads = f"{hardware['threads']} thread{'s' * (hardware['threads'] > 1)}"
    return (
        f"{run.model} on {run.task}, {run.curve.length:,} steps, {hardware['cpu']}, {threads}, "
        f"torch {versions['torch']}, peft {versions['peft']}.{count}\n"
    )


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(f"usage: {Path(__file__).name} DEMO_FOLDER", file=sys.stderr)
        return 2
    try:
        runs = find_runs(Path(arguments[0]))
    except TapertuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = README.read_text(encoding="utf-8")
    filled = f"\n{table(runs)}\n{note(runs[0])}\n"
    assert len(BETWEEN.findall(text)) == 1, "README.md has the two markers once, on lines of their own"
    write_text(README, BETWEEN.sub(lambda _: filled, text))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
