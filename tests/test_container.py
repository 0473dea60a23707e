"""The Dockerfile is well formed, and what it copies is in the build's context; the site's pages are all there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
KNOWN = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD"}


def instructions() -> list[tuple[str, str]]:
    text = "\n".join(line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def test_every_line_is_an_instruction() -> None:
    found = instructions()
    assert found[0][0] == "FROM" and {word for word, _ in found} <= KNOWN
    assert [word for word, _ in found][-2:] == ["ENTRYPOINT", "CMD"]


def test_what_is_copied_is_there_and_in_the_context() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for word, rest in instructions():
        for name in rest.split()[:-1] if word == "COPY" else ():
            assert (ROOT / name).exists() and name in kept, name
    project = (ROOT / "pyproject.toml").read_text()
    included = project.partition("force-include]\n")[2].partition("\n\n")[0]
    assert {
        name.strip('"').partition("/")[0] for name in re.findall(r'^("[^"]+"|\w+) =', included, re.MULTILINE)
    } <= kept


def test_all_versions_are_those_of_the_lock() -> None:
    [run] = [rest for word, rest in instructions() if word == "RUN" and "pip install" in rest]
    installs = re.findall(r"pip install [^&]*", run)
    assert installs and all("--constraint constraints.txt" in line for line in installs)


def test_every_page_has_a_place_in_the_site() -> None:
    site: Any = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def files(part: Any) -> list[str]:
        if isinstance(part, str):
            return [part]
        return [name for each in (part.values() if isinstance(part, dict) else part) for name in files(each)]

    named = files(site["nav"])
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    apart = {name for name in pages if name.startswith("decisions/")} | {"log.md"}
    assert len(named) == len(set(named)) and set(named) == pages - apart
    assert site["strict"] is True
