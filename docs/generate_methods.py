"""Writes what follows from ``METHODS``: the table of methods, docs/methods/index.md, that of their rates in
docs/rates.md, and src/tapertune/__init__.pyi, which tells type checkers of the configs. ``--check`` only says whether
they are current."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

from tapertune.adapt import Proximal, RankBudget
from tapertune.adapt.plan import make_plans
from tapertune.host.config import ChainConfig, run_fields
from tapertune.methods import METHODS, Matrix, Method
from tapertune.methods.rates import written

PAGE = Path(__file__).parent / "methods" / "index.md"
RATES = Path(__file__).parent / "rates.md"
STUB = Path(__file__).parents[1] / "src" / "tapertune" / "__init__.pyi"
HEAD = """# The methods

Written by `docs/generate_methods.py` from the rows of `METHODS` with default settings. Input to output, a capital is
a matrix, a small letter or E a vector; parameters are those of one layer of 768 x 3072, the largest in a BERT-base.

| method | config | chain | trains | parameters, 768 x 3072 | merges | as plain LoRA | saved |
|---|---|---|---|---|---|---|---|
"""

STUB_HEAD = """# Written by docs/generate_methods.py: the package's names, and the configs that are made from METHODS.

from typing import Any

from .adapt import Controller as Controller
from .adapt import Plan as Plan
from .errors import TapertuneError as TapertuneError
from .host import make_config as make_config
from .host import parameter_groups as parameter_groups
from .host import suggest_learning_rate as suggest_learning_rate
from .host import updates_kept as updates_kept
from .host.config import ChainConfig
from .integrations import TapertuneCallback as TapertuneCallback
from .integrations import attach as attach
from .integrations import cache_layers as cache_layers
from .methods import METHODS as METHODS

__version__: str
"""
_GIVEN = ("task_type", "base_model_name_or_path", "revision", "inference_mode")  # PEFT's, that a user gives
_TYPES = {"task_type": "str | None", "base_model_name_or_path": "str | None", "revision": "str | None"}


def trains(row: Method, settings: Any) -> str:
    """Which parts train, over a run with the default plan."""
    names = [f.name for f in row.chain(settings)]
    always = [n for n in names if row.trains(settings, n, "ffn") and row.trains(settings, n, "attention")]
    some = [n for n in names if row.trains(settings, n, "ffn") and n not in always]
    parts = [", ".join(always) + " throughout"] if always else []
    if some:
        parts.append(", ".join(some) + " of feed-forward layers until frozen")
    for plan in make_plans(row.plan(settings)):
        if isinstance(plan.policy, RankBudget):
            parts = [f"{', '.join(always)}, of fewer ranks as the budget falls to {plan.policy.target} a layer"]
        if isinstance(plan.policy, Proximal):
            parts = [f"{', '.join(always)}; ranks whose {plan.policy.gate} closes go at the end"]
    return "; ".join(parts)


def line(row: Method) -> str:
    settings = row.settings()
    chain = row.chain(settings)
    sizes = {**vars(settings), **chain.widths, "d_in": 768, "d_out": 3072}
    own = [f.name for f in chain if row.trains(settings, f.name, "ffn")]
    shared = [f.name for f in chain if isinstance(f, Matrix) and f.shared]
    rank = "of its rank or less" if chain.linear else "no: truncated, with the error named"
    cells = [
        f"[{row.name}]({row.name}.md)" if (PAGE.parent / f"{row.name}.md").exists() else row.name,
        f"`{row.config_name}`",
        chain.describe(),
        trains(row, settings),
        f"{chain.parameter_count(sizes, own):,}",
        "exactly"
        if chain.linear
        else "exactly into float32; a float16 or bfloat16 base loses most of what the map adds",
        f"lossless, {rank}" if chain.linear else rank,
        ", ".join(chain.names) + (f" ({', '.join(shared)} once)" if shared else "") + ", what is frozen, ranks",
    ]
    return "| " + " | ".join(cells) + " |\n"


def rule(row: Method) -> str:
    found, settings = row.rates, row.settings()
    exponents = [f"{value:.2g}" for value in (found.width, found.length, found.power)]
    rates = [written(rate) for rate in (found.rate, found.slowest, found.fastest)]
    cells = [row.name, *rates, *exponents[:2], f"{found.gain(settings):g} by default", exponents[2]]
    return "| " + " | ".join(cells) + " |\n"


def with_rules(page: str) -> str:
    table = "".join(rule(row) for row in METHODS.values())
    return re.sub(
        r"(?<=<!-- rules:start -->\n).*?(?=<!-- rules:end -->)",
        lambda _: (
            "\n| method | rate | learned from | to | w | l | gain | p |\n|---|---|---|---|---|---|---|---|\n"
            + table
            + "\n"
        ),
        page,
        flags=re.DOTALL,
    )


def stub(row: Method) -> str:
    """The stub of a method's config: its settings, and what all configs take."""
    own = {field.name: field for field in dataclasses.fields(row.settings)}
    shared = {field.name: field for field in dataclasses.fields(ChainConfig)}
    names = [*own, *(name for name in (*run_fields(row.name), "plan", *_GIVEN) if name not in own)]
    lines = [f"\nclass {row.config_name}(ChainConfig):", "    def __init__(", "        self,", "        *,"]
    lines += [f"        {name}: {_typed((own | shared)[name])}," for name in names]
    also = [name for name in ("r", "lora_dropout") if name not in names]  # PEFT's words for the method's own fields
    lines += [f"        {name}: {'int' if name == 'r' else 'float'} = ...," for name in also]
    lines += ["    ) -> None: ..."]
    lines += [f"    {name}: {_type(field)}" for name, field in own.items()]
    return "\n".join(lines) + "\n"


def _typed(field: Any) -> str:
    plain = isinstance(field.default, bool | int | float | str | type(None))
    shown = f'"{field.default}"' if isinstance(field.default, str) else repr(field.default)
    return f"{_type(field)} = {shown}" if plain else f"{_type(field)} = ..."


def _type(field: Any) -> str:
    if field.name in _TYPES:
        return _TYPES[field.name]
    return field.type if isinstance(field.type, str) else field.type.__name__


def main(arguments: list[str]) -> int:
    pages = {PAGE: HEAD + "".join(line(row) for row in METHODS.values())}
    pages[RATES] = with_rules(RATES.read_text(encoding="utf-8"))
    pages[STUB] = STUB_HEAD + "".join(map(stub, METHODS.values()))
    if arguments == ["--check"]:
        old = [page for page, text in pages.items() if not page.exists() or page.read_text(encoding="utf-8") != text]
        for page in old:
            print(f"{page} is not current: make docs", file=sys.stderr)
        return 1 if old else 0
    for page, text in pages.items():
        page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
