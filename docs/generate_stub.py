"""Writes src/tapertune/__init__.pyi, which tells type checkers of the classes that are made from ``METHODS``;
``--check`` only says whether it is current."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from tapertune.host.config import ChainConfig, run_fields
from tapertune.methods import METHODS, Method

STUB = Path(__file__).parents[1] / "src" / "tapertune" / "__init__.pyi"
HEAD = """# Written by docs/generate_stub.py: the names of the package, and the configs that are made from METHODS.

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
from .methods import METHODS as METHODS

__version__: str
"""
_GIVEN = ("task_type", "base_model_name_or_path", "revision", "inference_mode")  # PEFT's, that a user gives
_TYPES = {"task_type": "str | None", "base_model_name_or_path": "str | None", "revision": "str | None"}


def config(row: Method) -> str:
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
    text = HEAD + "".join(config(row) for row in METHODS.values())
    if arguments == ["--check"]:
        current = STUB.exists() and STUB.read_text(encoding="utf-8") == text
        if not current:
            print(f"{STUB} is not current: make docs", file=sys.stderr)
        return 0 if current else 1
    STUB.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
