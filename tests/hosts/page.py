"""Writes docs/support.md from the hosts' records; ``--check`` only says whether the page is current."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from hosts import HOSTS, Host

HERE = Path(__file__).parent
RECORDS = HERE / "records.json"
PAGE = HERE.parent.parent / "docs" / "support.md"
TEXT = HERE / "support.md"
MARK = "<!-- the table -->\n"


def page() -> str:
    records = json.loads(RECORDS.read_text(encoding="utf-8"))
    return TEXT.read_text(encoding="utf-8").replace(MARK, _table(records))


def write_page() -> None:
    PAGE.write_text(page(), encoding="utf-8")


def _table(records: dict[str, Any]) -> str:
    lines = [
        "| Host | peft | transformers | torch | Python | How | Works | Gaps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(host, records[host.name]) for host in HOSTS if host.name in records]
    missing = [host.name for host in HOSTS if host.name not in records]
    note = f"\nNo record yet: {', '.join(missing)}.\n" if missing else ""
    return "\n".join(lines) + "\n" + note


def _row(host: Host, record: dict[str, Any]) -> str:
    versions = record["versions"]
    cells = [versions.get(name, "") for name in ("peft", "transformers", "torch", "python")]
    works = [check["what"] for check in record["checks"] if check["works"]]
    gaps = [f"fails: {check['what']} ({check['fault']})" for check in record["checks"] if not check["works"]]
    title = f"{host.name} {versions.get(host.package, '')}".strip()
    said = [host.gaps] if host.gaps else []
    text = [title, *cells, host.way, _grouped(works), "; ".join([*said, *gaps]) or "none known"]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in text) + " |"


def _grouped(works: list[str]) -> str:
    """`AFLoRA: trains` and `AdaLoRA: trains` as one: what is done, and with which of the two."""
    methods: dict[str, list[str]] = {}
    for what in works:
        method = next((name for name in ("aflora", "adalora") if name in what), "")
        rest = what.replace(f", {method}", "").replace(f"{method}: ", "") if method else what
        methods.setdefault(rest, []).append(method)
    parts = [f"{rest}{_only(names)}" for rest, names in methods.items()]
    return "; ".join(parts) or "nothing"


def _only(names: list[str]) -> str:
    return f" ({names[0]} alone)" if len(names) == 1 and names[0] else ""


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        current = PAGE.read_text(encoding="utf-8") == page()
        if not current:
            print(f"{PAGE} is not current: python tests/hosts/page.py", file=sys.stderr)
        return not current
    write_page()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
