"""YAML as run files are read: a duplicate key is an error, ``1e-3`` is a number and ``no`` is text, as in YAML 1.2.

PyYAML alone reads the last two as YAML 1.1 does, as text and as false: ``eval_strategy: no`` would not work. Dates and
``12:30`` are text too. A file may repeat itself by anchors (``&a``, ``*a``), within bounds: a few hundred bytes can
stand for more than any memory holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import TapertuneError, shown
from ..files import read_text

LARGEST = 4 << 20  # bytes of a file
_MOST = 100_000  # values in a file, those that anchors repeat counted each time
_DEEPEST = 50  # levels of nesting
_BITS = 64


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses what would otherwise be read as something else than written."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth = getattr(self, "_depth", 0) + 1
        if self._depth > _DEEPEST:
            raise TapertuneError(f"line {self.line + 1}: nested more than {_DEEPEST} levels deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _size(node, {})
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # pyright: ignore[reportUnknownMemberType]
            if not isinstance(key, str):
                raise TapertuneError(f"line {key_node.start_mark.line + 1}: key {shown(key)} is not a name")
            if key in keys:
                raise TapertuneError(f"line {key_node.start_mark.line + 1}: duplicate key {shown(key)}")
            keys.add(key)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        text = super().construct_scalar(node)  # pyright: ignore[reportArgumentType]
        if isinstance(text, str) and any("\ud800" <= character <= "\udfff" for character in text):
            raise TapertuneError(f"line {node.start_mark.line + 1}: {shown(text)} holds half of a character")
        return text

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number as it is written, or an error: none is rounded to infinity."""
        whole = node.tag.endswith(":int")
        make: Any = self.construct_yaml_int if whole else self.construct_yaml_float
        try:
            number = make(node) if len(node.value) <= 1000 else math.inf
        except ValueError as error:
            raise TapertuneError(f"line {node.start_mark.line + 1}: {shown(node.value)} is no number") from error
        where = f"line {node.start_mark.line + 1}: the number {shown(node.value)}"
        if (whole and not -(1 << _BITS - 1) <= number < 1 << _BITS) or (
            math.isinf(number) and "inf" not in node.value.lower()
        ):
            raise TapertuneError(f"{where} is too large: whole numbers have {_BITS} bits, others are below 1.8e308")
        if math.isnan(number):
            raise TapertuneError(f"{where} is none, and no setting has such a value")
        return number


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, those behind anchors counted wherever they are named."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = _MOST + 1  # met again inside of itself: it has no end
    size = 1
    if isinstance(node, yaml.CollectionNode):
        for inner in node.value:
            for part in inner if isinstance(inner, tuple) else (inner,):
                size += _size(part, known)
                if size > _MOST:
                    raise TapertuneError(
                        f"line {node.start_mark.line + 1}: more than {_MOST:,} values, with what its anchors repeat"
                    )
    known[id(node)] = size
    return size


_TAG = "tag:yaml.org,2002:"
_OWN = [_TAG + name for name in ("bool", "int", "float", "timestamp")]  # which YAML 1.1 reads into too much
_Loader.yaml_implicit_resolvers = {
    start: [(tag, pattern) for tag, pattern in resolvers if tag not in _OWN]
    for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_TAG + "bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    _TAG + "int",
    re.compile(r"^[-+]?(?:0b[01_]+|0o?[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    _TAG + "float",
    re.compile(
        r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)
for _name in ("int", "float"):
    _Loader.add_constructor(_TAG + _name, _Loader.construct_number)


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
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # what its constructors raise for odd explicit tags
        raise TapertuneError(f"{where}: not YAML: {error}") from error


def read(path: Path) -> dict[str, Any]:
    """A file's mapping.

    Raises:
        TapertuneError: the file cannot be read, or does not hold a mapping.
    """
    value = parse(read_text(path, LARGEST), str(path))
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
