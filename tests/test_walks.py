"""The walks in CONTRIBUTING.md lead through files that are there, along imports."""

from __future__ import annotations

import re
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "tapertune"
WALKS = {
    "The way of one gradient": ("integrations/trainer.py", "events.py"),
    "The way of one setting": ("cli/train.py", "files.py"),
    "The way of an adapter to plain LoRA": ("cli/export.py", "files.py"),
}
MOST = 30  # files to read for one walk


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("tapertune", exclude_type_checking_imports=False, cache_dir=None)


def steps(walk: str) -> list[str]:
    """The files of a walk, in order."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [part] = re.findall(rf"^\*\*{walk}\*\*.*?\n\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    lines = part.splitlines()
    files = [re.match(rf"{number}\. `([\w/]+\.py)`: ", line) for number, line in enumerate(lines, 1)]
    assert all(files), f"{walk}: a line is not `NUMBER. FILE: what it does`"
    return [found.group(1) for found in files if found]


def module(file: str) -> str:
    return "tapertune." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def leads_to(graph: grimp.ImportGraph, earlier: str, later: str) -> bool:
    """Whether a module imports another, itself or through files of the other's room."""
    room = ".".join(later.split(".")[:2]) if later.count(".") > 1 else later
    seen: set[str] = set()
    waiting = set(graph.find_modules_directly_imported_by(earlier))
    while waiting:
        name = waiting.pop()
        if name == later:
            return True
        if name not in seen and (name == room or name.startswith(f"{room}.")):
            seen.add(name)
            waiting |= graph.find_modules_directly_imported_by(name)
    return False


@pytest.mark.parametrize("walk", WALKS)
def test_walks_follow_the_imports(walk: str, graph: grimp.ImportGraph) -> None:
    files = steps(walk)
    assert (files[0], files[-1]) == WALKS[walk]
    assert len(set(files)) == len(files) <= MOST
    missing = [file for file in files if not (SOURCE / file).is_file()]
    assert not missing, f"{walk} names {missing}, which are not there"
    for place, file in enumerate(files[1:], 1):
        met = any(leads_to(graph, module(earlier), module(file)) for earlier in files[:place])
        assert met, f"{walk}: nothing before {file} imports it"


def test_a_file_that_nobody_imports_is_seen(graph: grimp.ImportGraph) -> None:
    assert leads_to(graph, "tapertune.integrations.loop", "tapertune.adapt.averages")
    assert not leads_to(graph, "tapertune.adapt.policies", "tapertune.adapt.actuators")
    assert not leads_to(graph, "tapertune.events", "tapertune.integrations.loop")


def test_files_named_within_a_line_are_there() -> None:
    for walk in WALKS:
        text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition(f"**{walk}**")[2].partition("\n\n**")[0]
        named = re.findall(r"`([\w/]+\.py)`", text.partition("## Add a method")[0])
        assert named and all((SOURCE / file).is_file() for file in named)
