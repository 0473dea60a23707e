"""Two processes under DistributedDataParallel train what one does, and send what trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from processes import together
from reducer_worker import CASES, train, worker

Results = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """By case, what each of two processes has seen."""
    folder = tmp_path_factory.mktemp("two")
    together(worker, (str(folder), list(CASES)))
    files = {name: [folder / name.replace(" ", "-") / f"{rank}.pt" for rank in (0, 1)] for name in CASES}
    return {name: [torch.load(path, weights_only=True) for path in paths] for name, paths in files.items()}


@pytest.mark.parametrize("name", CASES)
def test_decisions_and_weights_are_those_of_one_process(two: Results, name: str, tmp_path: Path) -> None:
    one = train(name, None, tmp_path)
    for result in two[name]:
        assert (result["frozen"], result["ranks"]) == (one["frozen"], one["ranks"])
        torch.testing.assert_close(result["weights"], one["weights"], atol=1e-6, rtol=0)
    first, second = (result["weights"] for result in two[name])
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("name", CASES)
def test_what_trains_is_sent(two: Results, name: str) -> None:
    for result in two[name]:
        assert result["sent"] == result["trains"][:-1]


FREEZING = [name for name, case in CASES.items() if case.method == "aflora"]
PRUNING = [name for name, case in CASES.items() if case.method in ("adalora", "lora2") or case.plan]


@pytest.mark.parametrize("name", sorted({*FREEZING, *PRUNING}))
def test_less_is_sent_in_the_end(two: Results, name: str) -> None:
    for result in two[name]:
        assert result["sent"][-1] < result["sent"][0]
        assert bool(result["frozen"]) is (name in FREEZING)


def test_what_is_frozen_by_a_step_is_not_in_the_next(two: Results) -> None:
    for result in two["freezes"]:
        last = max(result["frozen"].values())
        changes = [t for t in range(1, len(result["sent"])) if result["sent"][t] != result["sent"][t - 1]]
        assert changes == sorted({step + 1 for step in result["frozen"].values()}) and changes[-1] == last + 1
