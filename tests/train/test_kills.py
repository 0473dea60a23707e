"""``kill -9`` at random moments and at every operation on files of a save, several times in one run: it ends as one
that nobody killed, bit for bit. Every row of METHODS, under Trainer, by the command and in a plain loop."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from entrances import ENTRANCES, USUAL, differences, result
from kills import attempt, kill_often, points, templates_kept
from train.tiny_run import write_data, write_model

from tapertune.events import read_events
from tapertune.methods import METHODS

DECIDING = {"aflora": "freeze", "adalora": "prune", "lora2": "prune"}
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a model of one layer and data; what copies of this process are to run has run once, so that all is
    imported."""
    top = tmp_path_factory.mktemp("small")
    write_model(top / "model", width=8, layers=1)
    write_data(top / "data", rows=16)
    with templates_kept():
        for begin in ENTRANCES.values():
            begin("lora", top / "run", USUAL)()
            shutil.rmtree(top / "run")
        yield top


def killed(root: Path, method: str, entrance: str, kills: int, seed: int) -> None:
    folder = root / "run"
    shutil.rmtree(folder, ignore_errors=True)
    body = ENTRANCES[entrance](method, folder, USUAL)
    whole = attempt(body, folder)
    assert whole.code == 0, whole.output
    expected = result(folder)
    types = [event["type"] for event in read_events(folder / "events.jsonl")]
    assert types.count("start") == types.count("end") == 1 and types.count(DECIDING.get(method, "start")) >= 1
    shutil.rmtree(folder)
    ends = 0
    for end in kill_often(body, folder, points(seed, whole), kills):
        assert list(differences(expected, result(end))) == []
        ends += 1
    assert ends


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("method", METHODS)
def test_three_kills_change_nothing(small: Path, method: str, entrance: str) -> None:
    killed(small, method, entrance, kills=3, seed=len(method))


@pytest.mark.slow
@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("method", METHODS)
def test_many_kills_change_nothing(small: Path, method: str, entrance: str) -> None:
    killed(small, method, entrance, kills=40, seed=1)
