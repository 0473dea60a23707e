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


def bomb(levels: int = 9) -> str:
    """A few hundred bytes of anchors that stand for 9 ** levels values."""
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    for earlier, later in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{later}: &{later} [{','.join(['*' + earlier] * 9)}]")
    return "\n".join(lines[:levels])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(), "more than 100,000 values"),
        ("a: &a {b: *a}", "more than 100,000 values"),
        ("a: &a [*a]", "more than 100,000 values"),
        ("a: " + "[" * 60 + "]" * 60, "nested more than 50 levels deep"),
        ("a: " + "[" * 5000, "nested more than 50 levels deep"),
        ("a: " + "9" * 5000, r"the number '9+\.\.\. is too large"),
        ("a: -9223372036854775809", "is too large"),
        ("a: 1e400", "the number '1e400' is too large"),
        ("a: .nan", "the number '.nan' is none"),
        ("a: 0x_", "is no number"),
        ('a: "\\ud800"', "half of a character"),
        ("a: \x01", "not YAML: unacceptable character"),
        ("a: !!timestamp 2001-99-99", "not YAML"),
        ("a: !!int x", "no number"),
    ],
)
def test_files_that_are_made_to_break_a_reader(text: str, message: str) -> None:
    with pytest.raises(TapertuneError, match=message) as caught:
        parse(text, "run.yaml")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_what_yaml_1_1_reads_into_too_much_is_text() -> None:
    text = "{a: 2001-01-01, b: 12:30, c: 1:30:00, d: .inf, e: 0o17, f: 0x1F, g: 1_000, h: -1.5, i: 1.}"
    assert parse(text, "here") == {
        "a": "2001-01-01", "b": "12:30", "c": "1:30:00", "d": float("inf"), "e": 15, "f": 31, "g": 1000, "h": -1.5,
        "i": 1.0,
    }  # fmt: skip
    assert parse("a: &x [1, 2]\nb: *x\nc: *x", "here") == {"a": [1, 2], "b": [1, 2], "c": [1, 2]}
    assert len(parse(bomb(4), "here")["d"]) == 9


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("# " + "x" * (4 << 20))
    with pytest.raises(TapertuneError, match="more than 4,194,304 bytes"):
        read(tmp_path / "run.yaml")
