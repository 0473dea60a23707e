"""YAML as run files are read: a duplicate key is an error, ``1e-3`` is a number and ``no`` is text, as in YAML 1.2.

PyYAML alone reads the last two as YAML 1.1 does, as text and as false: ``eval_strategy: no`` would not work.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import TapertuneError
from ..files import read_text


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses what would otherwise be read as something else than written."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # pyright: ignore[reportUnknownMemberType]
            if not isinstance(key, str):
                raise TapertuneError(f"line {key_node.start_mark.line + 1}: key {key!r} is not a name")
            if key in keys:
                raise TapertuneError(f"line {key_node.start_mark.line + 1}: duplicate key {key!r}")
            keys.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    start: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse(text: str, where: str) -> Any:
    """The value of a YAML text.

    Raises:
        TapertuneError: it is not YAML, or has a duplicate key; the message starts with ``where``.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except TapertuneError as error:
        raise TapertuneError(f"{where}, {error}") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise TapertuneError(f"{where}{line}: not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise TapertuneError(f"{where}: not YAML: {error}") from error


def read(path: Path) -> dict[str, Any]:
    """A file's mapping.

    Raises:
        TapertuneError: the file cannot be read, or does not hold a mapping.
    """
    value = parse(read_text(path), str(path))
    if not isinstance(value, dict):
        raise TapertuneError(f"{path}: it must hold settings, such as 'model: minilm'")
    return value


def parse_overrides(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Splits ``--method.r 4 --seed=3 file.yaml`` into values by dotted name, and what is left.

    Values are YAML: ``null``, ``[query, value]`` and ``1e-3`` mean what they mean in a file. A ``-`` in a name may
    stand for ``_``.

    >>> parse_overrides(["run.yaml", "--method.r", "4", "--training.learning-rate=1e-3"])
    ({'method.r': 4, 'training.learning_rate': 0.001}, ['run.yaml'])
    """
    values: dict[str, Any] = {}
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        if not argument.startswith("--"):
            if argument[:1] == "-" and argument[1:2].isalpha():
                raise TapertuneError(f"unknown option {argument!r}: settings are given as -{argument} VALUE")
            rest.append(argument)
            continue
        name, equals, text = argument[2:].partition("=")
        if not equals:
            if not queue or queue[0].startswith("--"):
                also = "" if "." in name else "; the command has no option of that name (--help lists them)"
                raise TapertuneError(f"--{name} has no value: write --{name} VALUE{also}")
            text = queue.pop(0)
        name = name.replace("-", "_")
        if name in values:
            raise TapertuneError(f"--{name} is given twice")
        values[name] = parse(text, f"--{name}")
    return values, rest


def apply_overrides(settings: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested settings with dotted names set.

    Raises:
        TapertuneError: a name leads through something that is not a block.

    >>> apply_overrides({"method": {"name": "lora"}}, {"method.r": 4, "seed": 1})
    {'method': {'name': 'lora', 'r': 4}, 'seed': 1}
    """
    result = _copy(settings)
    for dotted, value in overrides.items():
        names = dotted.split(".")
        block: dict[str, Any] = result
        for depth, name in enumerate(names[:-1], 1):
            inner: Any = block.setdefault(name, {})
            if inner is None:
                inner = block[name] = {}
            elif isinstance(inner, str) and name in ("method", "task"):
                inner = block[name] = {"name": inner}  # the short form, `method: lora`
            elif not isinstance(inner, dict):
                raise TapertuneError(
                    f"--{dotted}: {'.'.join(names[:depth])} is {inner!r}, which has no settings inside"
                )
            block = inner
        block[names[-1]] = value
    return result


def _copy(value: Any) -> Any:
    return {key: _copy(inner) for key, inner in value.items()} if isinstance(value, dict) else value
