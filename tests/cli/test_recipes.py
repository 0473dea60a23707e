from __future__ import annotations

from typing import Any

import pytest

from tapertune.runfile.recipes import recipe_files


def test_all_are_valid_and_listed_in_full(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one test, as every model is built once in a process."""
    done = cli("validate")
    assert (done.code, done.err) == (0, ""), done.out
    assert [line.partition(": ok, trains ")[0] for line in done.out.splitlines()] == list(recipe_files())
    printed = []
    for columns in ("200", "40"):
        monkeypatch.setenv("COLUMNS", columns)
        done = cli("recipes")
        assert (done.code, done.err) == (0, "")
        printed.append(done.out)
    assert printed[0] == printed[1]
    head, *rows = printed[0].splitlines()
    assert head.split() == ["recipe", "method", "model", "task", "trains", "head", "steps", "FLOP"]
    assert [row.split()[0] for row in rows[: len(recipe_files())]] == list(recipe_files())
    (row,) = [row for row in rows if row.startswith("aflora/glue-rte ")]
    assert row.split()[1:7] == ["aflora", "deberta-v3-base", "rte", "451,872", "592,130", "780"]


def test_some_are_listed(cli: Any) -> None:
    done = cli("recipes", "--method", "sora", "--task", "stsb")
    names = [line.split()[0] for line in done.out.splitlines()[1:] if "/" in line]
    assert names == [name for name in recipe_files() if name.startswith("sora/") and "stsb" in name]
    assert {"sora/glue-stsb", "sora/glue-stsb-released"} <= set(names)


def test_none_of_that_name(cli: Any) -> None:
    done = cli("recipes", "--method", "aflroa")
    assert (done.code, done.out) == (2, "")
    assert "unknown method of a recipe 'aflroa': did you mean 'aflora'?" in done.err


def test_none_that_is_both(cli: Any) -> None:
    done = cli("recipes", "--method", "sora", "--task", "xsum")
    assert done.code == 2
    assert "no recipe of sora for xsum" in done.err
