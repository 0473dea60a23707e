"""Damaged files of every kind: one line, or an outcome that is right or says what it lacks."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz.files import FolderKind
from fuzz.harness import Fault, Outcome, attempt, bounded, fuzz, timed
from fuzz.kinds import KINDS, WHAT
from fuzz.mutate import is_wrong
from fuzz.run import table
from hypothesis import given, settings
from hypothesis import strategies as st

from tapertune.errors import TapertuneError
from tapertune.events import whole_events
from tapertune.files import read_json
from tapertune.runfile import yamlfile
from tapertune.tasks.fields import BadField
from tapertune.tasks.json_files import parsed

QUICK = {"inspect": 150, "import": 60, "data": 60, "run files": 60, "grids": 60, "controller state": 30, "merge": 25}
"""So many cases of the kinds whose healthy files take no training to make."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", QUICK)
def test_some_damaged_files(name: str, tmp_path: Path) -> None:
    counts = fuzz(KINDS[name][0](tmp_path), 0, range(QUICK[name]))
    assert counts["refused"] and counts["same"] + counts["taken"] + counts["said"], (
        "both happen, else nothing was tried"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_many_damaged_files(name: str, tmp_path: Path) -> None:
    make, cases = KINDS[name]
    faults: list[str] = []
    timed(make(tmp_path), 2, range(cases), lambda fault: faults.append(str(fault)))
    assert not faults, faults[:10]


def test_a_whole_run_is_a_hundred_thousand_cases() -> None:
    assert sum(cases for _, cases in KINDS.values()) >= 100_000
    assert set(WHAT) == set(KINDS)
    assert (
        table({"report": {"cases": 3, "refused": 2, "said": 1}}).splitlines()[-1].startswith("| **all** | 3 | 2 | 1 |")
    )


# ---- the harness sees what it should ---------------------------------------------------------------------------------


class Careless(FolderKind):
    """A reader with every fault."""

    name = "careless"
    how = ""

    def read(self) -> Outcome:
        value = json.loads((self.folder / "a.json").read_text())
        if self.victim is not None and self.how == "leaves":
            self.out.mkdir()
            raise TapertuneError("no")
        if self.victim is not None and self.how == "lines":
            raise AssertionError("two")
        return Outcome(str(value))


@pytest.mark.parametrize(
    ("how", "says"), [("", "without a word|Error"), ("leaves", "left"), ("lines", "AssertionError")]
)
def test_faults_are_seen(how: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_text('{"a": 1, "b": "x"}')
    kind = Careless(tmp_path / "in")
    kind.healthy()
    kind.how = how
    faults: list[Fault] = []
    counts = fuzz(kind, 0, range(60), faults.append)
    assert counts["fault"] == len(faults) > 5 and any(re.search(says, str(fault)) for fault in faults)
    assert json.loads((tmp_path / "in" / "a.json").read_text()) == {"a": 1, "b": "x"}, "files are whole again"
    assert attempt.__doc__ and kind.left() == []


def test_memory_is_bounded() -> None:
    with pytest.raises(Fault, match="took"), bounded(megabytes=-1):
        pass


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [(1, "1", True), (1, True, True), (1, 2.5, False), (1, float("nan"), True), ("a", None, False), ([], {}, True)],
)
def test_what_is_wrong_of_itself(old: Any, new: Any, wrong: bool) -> None:
    assert is_wrong(old, new) is wrong


# ---- texts of any kind -----------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.text() | JSON.map(json.dumps))
def test_any_text_is_read_or_refused_in_a_line(text: str) -> None:
    for read, error in (
        (lambda: yamlfile.parse(text, "here"), TapertuneError),
        (lambda: parsed(text), (BadField, ValueError)),
    ):
        try:
            read()
        except error as caught:
            if isinstance(caught, TapertuneError):
                assert "\n" not in str(caught)
                str(caught).encode()


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.lists(st.binary() | JSON.map(lambda value: json.dumps(value).encode()), max_size=4))
def test_events_are_read_around_what_is_none(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "any-events.jsonl"
    whole = b'{"v":1,"type":"loss","step":1,"loss":0.5}'
    path.write_bytes(b"\n".join([whole, *(line.replace(b"\n", b"") for line in lines), whole, b""]))
    events, faults = whole_events(path)
    assert [event["step"] for event in events][:1] == [1] and len(events) >= 2
    assert len(events) + len(faults) == 2 + sum(bool(line.replace(b"\n", b"")) for line in lines)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no fifos here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    for read in (read_json, yamlfile.read, whole_events):
        with pytest.raises(TapertuneError, match="no regular file"):
            read(tmp_path / "run.json")
