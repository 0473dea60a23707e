"""How the compiled products are made, kept and done without."""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path

import pytest

from tapertune import TapertuneError
from tapertune.kernels import kernel_name, selection
from tapertune.kernels.native import build

has_compiler = pytest.mark.skipif(build.library() is None, reason=f"no compiled products: {build.why_not()}")


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home where nothing was compiled yet; compiling takes a second, as nobody computes with what comes of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "_OPTIONS", tuple("-O0" if option == "-O3" else option for option in build._OPTIONS))
    build._loaded.cache_clear()
    monkeypatch.setattr(build, "_loaded", build._loaded.__wrapped__)
    return tmp_path / "tapertune"


@has_compiler
def test_it_is_compiled_once_and_leaves_nothing_else(anew: Path) -> None:
    assert isinstance(build.library(), ctypes.CDLL)
    (made,) = anew.iterdir()
    before = made.stat().st_mtime_ns
    assert made.suffix == ".so" and stat.S_IMODE(made.stat().st_mode) == 0o755
    assert build.library() is not None and build.why_not() is None
    assert made.stat().st_mtime_ns == before and list(anew.iterdir()) == [made]


@has_compiler
def test_other_options_or_another_processor_are_another_library(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build.library() is not None
    monkeypatch.setattr(build, "_processor", lambda: "another")
    assert build.library() is not None
    monkeypatch.setattr(build, "_OPTIONS", (*build._OPTIONS, "-g"))
    assert build.library() is not None
    assert len(list(anew.iterdir())) == 3


@has_compiler
def test_a_home_that_cannot_be_written_to(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    anew.write_text("a file in the folder's place")
    assert isinstance(build.library(), ctypes.CDLL)
    assert anew.read_text() == "a file in the folder's place"


def test_no_compiler(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build.library() is None
    assert build.why_not() == "there is no C++ compiler: no-such-compiler is not found (CXX names another)"
    monkeypatch.delenv("TAPERTUNE_KERNEL", raising=False)
    assert kernel_name() == "fused"
    monkeypatch.setenv("TAPERTUNE_KERNEL", "native")
    with pytest.raises(TapertuneError, match="'native', which is not to be had here: there is no C"):
        kernel_name()


def test_a_compiler_that_fails_is_quoted(anew: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "compiler"
    script.write_text("#!/bin/sh\n[ $2 = --version ] && exit 0\necho what went wrong >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", f"{script} -m64")
    assert build.library() is None
    reason = build.why_not() or ""
    assert f"{script} -m64 -std=c++17" in reason and reason.endswith("failed: what went wrong")
    assert not any(name.endswith((".so", ".part")) for name in os.listdir(anew))


def test_other_systems(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.sys, "platform", "win32")
    assert build.library() is None
    assert build.why_not() == "it is built on Linux, and this is win32"


def test_a_former_name_is_the_present_one_and_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    selection._renamed.cache_clear()
    monkeypatch.setenv("TAPERTUNE_KERNEL", "folded")
    with pytest.warns(FutureWarning, match=r"TAPERTUNE_KERNEL.* 'folded' is now called 'lowrank'"):
        assert kernel_name() == "lowrank"
    assert kernel_name() == "lowrank", "said once"
    monkeypatch.setenv("TAPERTUNE_KERNEL", "folde")
    with pytest.raises(TapertuneError, match="lowrank"):
        kernel_name()
    selection._renamed.cache_clear()


@has_compiler
@pytest.mark.parametrize("damage", ["shorter", "empty", "changed"])
def test_a_damaged_library_is_made_anew(anew: Path, damage: str) -> None:
    """Loading one that is cut short would end the process."""
    assert build.library() is not None
    (made,) = anew.iterdir()
    whole = made.read_bytes()
    bad = {"shorter": whole[: len(whole) // 2], "empty": b"", "changed": whole[:-100] + b"x" + whole[-99:]}[damage]
    made.unlink()  # what is loaded stays mapped
    made.write_bytes(bad)
    assert isinstance(build.library(), ctypes.CDLL)
    assert len(made.read_bytes()) == len(whole) and build._is_whole(made)
