"""A plan is equal to itself after a trip through JSON, whatever is in it; what could not be is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tapertune
from tapertune.adapt import Plan, make_plans
from tapertune.adapt.plan import as_json, present_names
from tapertune.errors import TapertuneError
from tapertune.methods import METHODS

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "aflora": [{"projection_scope": "all"}],
    "adalora": [{"orth_reg_weight": 0.0}, {"orth_form": "norm_mean"}, {"init_r": 1}],
    "sora": [{"sparse_lambda": 0.5}, {"threshold_times_lr": True}],
    "lora2": [{"orth_planes": False}, {"orth_cross": False}, {"orth_planes": False, "orth_cross": False}],
}
ROWS = [(name, values) for name in METHODS for values in ({}, *VARIANTS.get(name, []))]


@pytest.mark.parametrize(("method", "values"), ROWS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(ROWS)])
def test_every_methods_plan(method: str, values: dict[str, Any]) -> None:
    plans = tapertune.make_config(method, **values).resolved_plans()
    written = as_json(plans)
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert make_plans(written) == plans


def numbers(low: float, high: float = math.inf) -> st.SearchStrategy[Any]:
    top = None if math.isinf(high) else high
    whole = st.integers(math.ceil(low), (1 << 63) - 1 if top is None else int(top))
    return whole | st.floats(low, top, allow_nan=False, allow_infinity=False)


names = st.text(min_size=1, max_size=3)
name_lists = st.lists(names, max_size=3).flatmap(lambda found: st.sampled_from([found, tuple(found)]))
pairs = st.lists(st.tuples(names, names) | st.lists(names, min_size=2, max_size=2), max_size=2)
durations = st.integers(0, 10**6) | st.floats(0, 1)
counts = st.integers(1, 10**6)


def piece(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"kind": st.just(kind)}, optional=fields)


importances = st.sampled_from(["|g|", "|g*p|", "|g/p|"]).flatmap(
    lambda kind: piece(kind, beta1=numbers(0, 1), beta2=numbers(0, 1), window=st.none() | counts)
)
simple = st.sampled_from(["cubic", "quadratic"]).flatmap(
    lambda kind: piece(kind, warmup=durations, cooldown=durations, every=counts)
) | piece("constant", value=numbers(0, 1), every=counts)
schedules = st.recursive(
    simple,
    lambda inner: st.lists(inner, min_size=1, max_size=3).flatmap(
        lambda parts: st.fixed_dictionaries(
            {
                "kind": st.just("join"),
                "parts": st.just(parts) | st.just(tuple(parts)),
                "boundaries": st.tuples(*[durations] * (len(parts) - 1)),
            }
        )
    ),
    max_leaves=4,
)
freezing = {"factors": st.none() | name_lists, "freeze_vectors": st.booleans(), "merge_frozen": st.booleans()}
policies = st.one_of(
    piece("lowest_fraction", **freezing),
    piece("mean_below_quantile", **freezing),
    piece("bottom_up", layers=counts | st.floats(0.001, 0.999), merge_frozen=st.booleans()),
    st.fixed_dictionaries(
        {"kind": st.just("rank_budget"), "gate": names, "target": counts}, optional={"scored": st.none() | name_lists}
    ),
    piece(
        "proximal",
        gate=names,
        threshold=numbers(0),
        form=st.sampled_from(["soft", "released"]),
        times_lr=st.booleans(),
    ),
)
penalties = st.one_of(
    piece(
        "orthogonality",
        weight=numbers(0),
        rows=name_lists,
        columns=name_lists,
        row_products=pairs,
        column_products=pairs.map(tuple),
        form=st.sampled_from(["squared_sum", "norm_mean"]),
    ),
    st.fixed_dictionaries({"kind": st.just("l1"), "weight": numbers(0)}, optional={"gate": names}),
)
plans = st.fixed_dictionaries(
    {},
    optional={
        "importance": importances,
        "schedule": schedules,
        "policy": policies,
        "penalties": st.lists(penalties, max_size=3).flatmap(lambda found: st.sampled_from([found, tuple(found)])),
        "final_update": st.booleans(),
        "observe": st.sampled_from(["before", "after"]),
        "compact": st.sampled_from(["end", "on_event", "never"]),
    },
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans)
def test_any_users_plan(data: dict[str, Any]) -> None:
    plan = Plan.from_dict(data)
    written = plan.to_dict()
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert Plan.from_dict(json.loads(json.dumps(written))) == plan
    assert Plan.from_dict(written).to_dict() == written


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"schedule": {"kind": "cubic", "warmup": math.nan}}, "schedule.warmup is nan"),
        ({"schedule": {"kind": "cubic", "every": True}}, "schedule.every is True; it must be a positive whole number"),
        ({"schedule": {"kind": "join", "parts": [], "boundaries": "1"}}, "schedule.boundaries is '1'"),
        ({"importance": {"kind": "|g|", "window": True}}, "importance.window is True"),
        ({"policy": {"kind": "bottom_up", "layers": math.nan}}, "policy.layers is nan"),
        ({"policy": {"kind": "proximal", "threshold": math.inf}}, "policy.threshold is inf; it must be a finite"),
        ({"policy": {"kind": "proximal", "times_lr": "no"}}, "policy.times_lr is 'no'; it must be true or false"),
        ({"policy": {"kind": "rank_budget", "gate": 3, "target": 2}}, "policy.gate is 3; it must be a factor's name"),
        ({"policy": {"kind": "rank_budget", "gate": "E", "target": 2, "scored": "EA"}}, "policy.scored is 'EA'"),
        ({"policy": {"kind": "lowest_fraction", "factors": {"A"}}}, "policy.factors is .'A'.; it must be a list"),
        ({"penalties": [{"kind": "orthogonality", "rows": "AB"}]}, "penalty.rows is 'AB'; it must be a list"),
        ({"penalties": [{"kind": "orthogonality", "row_products": ["AB"]}]}, "penalty.row_products is"),
        ({"penalties": [{"kind": "orthogonality", "row_products": [["A"]]}]}, "a list of pairs of factor names"),
        ({"penalties": [{"kind": "l1", "weight": math.inf}]}, "penalty.weight is inf; it must be a finite number"),
    ],
)
def test_what_json_would_change_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(TapertuneError, match=message):
        Plan.from_dict(data)


def test_policies_are_read_under_former_names_of_fields() -> None:
    for kind in ("bottom_up", "lowest_fraction", "mean_below_quantile"):
        former, present = ({"policy": {"kind": kind, name: True}} for name in ("fold", "merge_frozen"))
        with pytest.warns(FutureWarning, match=r"^policy.fold is now policy.merge_frozen$"):
            assert Plan.from_dict(former) == Plan.from_dict(present)
        assert present_names([former, present]) == [present, present]
        assert former["policy"] == {"kind": kind, "fold": True}, "what was given is left as it is"
    assert present_names(None) is None
    with pytest.raises(TapertuneError, match=r"policy.fold is what policy.merge_frozen was called before"):
        Plan.from_dict({"policy": {"kind": "bottom_up", "fold": True, "merge_frozen": True}})
    with pytest.raises(TapertuneError, match="unknown field of policy"):
        Plan.from_dict({"policy": {"kind": "bottom_up", "folded": True}})
