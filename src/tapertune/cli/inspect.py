"""``tapertune inspect``: what an adapter on disk is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer


def inspect(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="An adapter's folder.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Describe a saved adapter without loading it: method, rank, sizes, frozen matrices."""
    from ..interop import describe_adapter

    facts = describe_adapter(adapter)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _print(facts)


def _print(facts: Mapping[str, Any]) -> None:
    parameters, frozen = dict(facts["parameters"]), facts["frozen"]
    ranks = list(facts["pruned_ranks"].values())
    kind = "" if facts["made_with"] == "tapertune" else "  (a plain PEFT adapter, not one of tapertune's)"
    frozen_kinds = Counter(factor for factors in frozen.values() for factor in factors)
    rows = {
        "method": f"{facts['method']}{kind}",
        "base model": facts["base_model"] or "not recorded",
        "rank, scaling": f"{_or_dash(facts['r'])}, {_or_dash(facts['scaling'])}",
        "target modules": _listed(facts["target_modules"]),
        "adapted": f"{facts['adapted_modules']} modules, {parameters.pop('total'):,} parameters",
        "  by factor": ", ".join(f"{name} {count:,}" for name, count in parameters.items()) or "none",
        "saved beside": ", ".join(f"{name} {count:,}" for name, count in facts["saved_modules"].items()) or "nothing",
        "frozen": ", ".join(f"{count} {name}" for name, count in sorted(frozen_kinds.items())) or "nothing",
        **({"pruned": f"to rank {min(ranks)} to {max(ranks)} in {len(ranks)} modules"} if ranks else {}),
        **({"coverage": str(facts["coverage"]).removeprefix("coverage: ")} if facts["coverage"] else {}),
        "weights": f"{facts['bytes']:,} bytes, {', '.join(facts['dtypes'])}",
        "versions": ", ".join(f"{name} {value}" for name, value in facts["versions"].items()) or "not recorded",
    }
    for name, value in rows.items():
        typer.echo(f"{name:<15} {value}")


def _or_dash(value: Any) -> str:
    return "-" if value is None else f"{value:g}"


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
