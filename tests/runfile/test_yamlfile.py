from __future__ import annotations

from pathlib import Path

import pytest

from tapertune.errors import TapertuneError
from tapertune.runfile.yamlfile import apply_overrides, parse, parse_overrides, read


def test_values_mean_what_they_look_like() -> None:
    assert parse("{a: 1e-3, b: no, c: true, d: 1.5E+2, e: 12e3, f: on, g: null, h: 007x}", "here") == {
        "a": 0.001, "b": "no", "c": True, "d": 150.0, "e": 12000.0, "f": "on", "g": None, "h": "007x",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "run.yaml, line 3: duplicate key 'a'"),
        ("m:\n  r: 1\n  r: 2\n", "run.yaml, line 3: duplicate key 'r'"),
        ("1: x\n", "run.yaml, line 1: key 1 is not a name"),
        ("a: [1\nb: 2", "run.yaml, line 2: not YAML"),
        ("- a\n", "run.yaml: it must hold settings"),
        ("", "run.yaml: it must hold settings"),
        ("a: !!python/object:os.system x", "run.yaml, line 1: not YAML"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TapertuneError) as caught:
        read(path)
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TapertuneError, match=r"cannot read '.*none.yaml': No such file"):
        read(tmp_path / "none.yaml")


def test_overrides_are_told_from_files() -> None:
    arguments = ["--method.r", "4", "run.yaml", "--training.learning-rate=1e-3", "--method.target_modules", "[a, b]"]
    values = {"method.r": 4, "training.learning_rate": 0.001, "method.target_modules": ["a", "b"]}
    assert parse_overrides(arguments) == (values, ["run.yaml"])


def test_a_negative_number_is_a_value() -> None:
    assert parse_overrides(["--a.b", "-1"]) == ({"a.b": -1}, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--a.b"], "--a.b has no value: write --a.b VALUE$"),
        (["--resum"], "--resum has no value: write --resum VALUE; the command has no option of that name"),
        (["--a.b", "--c", "1"], "--a.b has no value"),
        (["--a.b", "1", "--a.b=2"], "--a.b is given twice"),
        (["--a", "[1"], "--a, line 1: not YAML"),
    ],
)
def test_bad_overrides_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(TapertuneError, match=message):
        parse_overrides(arguments)


def test_overrides_make_blocks_and_change_no_input() -> None:
    raw = {"method": "lora", "task": {"name": "rte"}, "head": None}
    changed = apply_overrides(raw, {"method.r": 4, "task.data": "d", "head.learning_rate": 0.1, "seed": 1})
    assert changed == {
        "method": {"name": "lora", "r": 4},
        "task": {"name": "rte", "data": "d"},
        "head": {"learning_rate": 0.1},
        "seed": 1,
    }
    assert raw == {"method": "lora", "task": {"name": "rte"}, "head": None}
    with pytest.raises(TapertuneError, match=r"--seed.x: seed is 1, which has no settings inside"):
        apply_overrides({"seed": 1}, {"seed.x": 2})
