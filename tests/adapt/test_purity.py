"""What decides knows nothing of what acts: policies read parameters, and the controller alone touches them."""

from __future__ import annotations

import grimp
import pytest

from tapertune.adapt.policies import POLICIES

ACTS = {f"tapertune.adapt.{name}" for name in ("actuators", "controller", "runner", "gates", "optimizers", "following")}
PURE = ("parameter", "policies", "bottom_up", "decision", "components", "schedules", "importance", "spec", "plan")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("tapertune", exclude_type_checking_imports=False, cache_dir=None)


@pytest.mark.parametrize("name", PURE)
def test_pure_pieces_import_no_actuator(name: str, graph: grimp.ImportGraph) -> None:
    assert not graph.find_upstream_modules(f"tapertune.adapt.{name}") & ACTS


def test_the_protocol_is_at_the_bottom(graph: grimp.ImportGraph) -> None:
    assert not graph.find_modules_directly_imported_by("tapertune.adapt.parameter")


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_policies_declare_what_they_are_asked(policy: type) -> None:
    assert all(hasattr(policy, name) for name in ("settles", "merge_frozen", "times_lr", "scope", "check", "decide"))
