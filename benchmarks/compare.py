"""Compares the methods on small samples with small models, and fills the tables in docs/results.md and README.

    python benchmarks/compare.py glue --data DIR [--shard 0/2] [--scratch DIR]
    python benchmarks/compare.py arithmetic --data DIR [--scratch DIR]
    python benchmarks/compare.py page

``DIR/<task>/`` holds the official ``train.jsonl`` and ``validation.jsonl`` of each GLUE task, ``DIR/math_instruct/``
the training and test files of LLM-Adapters' arithmetic sets. A record is written as its run ends, and what is recorded
is not run again, so that both can be stopped at any time; with ``--shard``, processes share the work.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from compare_arithmetic import arithmetic_table, run_arithmetic
from compare_runs import GRIDS, TASKS, of_these_sizes, run_all
from compare_table import Record, details, overview, read_records

from tapertune.errors import TapertuneError, bad_value
from tapertune.files import write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
GLUE, ARITHMETIC = RESULTS / "minilm.jsonl", RESULTS / "smollm2.jsonl"
PAGE, FRONT = ROOT / "docs" / "results.md", ROOT / "README.md"


def page() -> None:
    """Writes the tables into the page, and the first into README too, between their markers."""
    glue, arithmetic = of_these_sizes(read_records(GLUE)), read_records(ARITHMETIC)
    parts = {"overview": overview(glue, list(TASKS), GRIDS)}
    parts |= {task: details(glue, task, GRIDS) for task in TASKS}
    parts |= {"arithmetic": arithmetic_table(arithmetic), "machine": machine([*glue, *arithmetic])}
    fill(PAGE, parts)
    fill(FRONT, {"overview": parts["overview"]})


def machine(records: Sequence[Record]) -> str:
    """How many runs there are, how long they took, and with what they were made."""
    minutes = sum(record["cpu_seconds"] for record in records) / 60
    made = sorted({", ".join(f"{name} {version}" for name, version in r["versions"].items()) for r in records})
    where = sorted({f"{record['cpu']}, one thread a run" for record in records})
    commits = sorted({str(record["commit"])[:12] for record in records})
    parts = [f"{len(records)} runs, {minutes:.0f} CPU-minutes with their evaluations", *where, *made]
    return f"{'; '.join(parts)}; commit {', '.join(commits)}.\n"


def fill(page: Path, parts: Mapping[str, str]) -> None:
    text = page.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = filled(text, name, part)
    write_text(page, text)


def filled(text: str, name: str, part: str) -> str:
    """A page with a part in its place.

    >>> filled("<!-- a:start -->\\nold\\n<!-- a:end -->", "a", "new\\n")
    '<!-- a:start -->\\n\\nnew\\n\\n<!-- a:end -->'
    """
    between = re.compile(rf"(?<=<!-- {name}:start -->\n).*?(?=<!-- {name}:end -->)", re.DOTALL)
    assert len(between.findall(text)) == 1, f"the page has the two markers of {name} once, on lines of their own"
    return between.sub(lambda _: f"\n{part}\n", text)


def shard(text: str) -> tuple[int, int]:
    """The number and the count in ``0/2``.

    Raises:
        TapertuneError: it is not of that form.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise bad_value("--shard", text, "a number and a count, such as 0/2 or 1/2")
    return int(found[1]), int(found[2])


def arguments_of(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare the methods on small samples with small models.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (
        ("glue", "run MiniLM on small samples of GLUE"),
        ("arithmetic", "run SmolLM2 on arithmetic word problems"),
    ):
        command = commands.add_parser(name, help=f"{what}: what is not recorded yet")
        command.add_argument("--data", type=Path, required=True, help="folder with a folder for each task")
        command.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="where runs lie")
    commands.choices["glue"].add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    commands.choices["glue"].add_argument("--shard", default="0/1", help="this process's part, such as 0/2")
    commands.add_parser("page", help="fill the tables in docs/results.md and README from the records")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    given = arguments_of(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client
    try:
        if given.command == "page":
            page()
        elif given.command == "glue":
            run_all(given.data, given.tasks, shard(given.shard), given.scratch, GLUE)
        else:
            run_arithmetic(given.data, given.scratch, ARITHMETIC)
    except TapertuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
