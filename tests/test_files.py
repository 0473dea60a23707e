from __future__ import annotations

import ast
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tapertune import files
from tapertune.errors import TapertuneError

SOURCE = Path(files.__file__).parent
# what moves files that are whole already, and a compiler's output, whose name its own cache knows
OTHER_RENAMES = {"train/run_folder.py", "kernels/native/build.py", "compare/claims.py", "train/replaced.py"}
WRITERS: dict[str, tuple[Callable[..., Path], Any, bytes]] = {
    "text": (files.write_text, "a\nb \ud800", b"a\nb ?"),
    "bytes": (files.write_bytes, b"\x00\xff", b"\x00\xff"),
    "json": (files.write_json, {"a": [1, "é"]}, b'{\n  "a": [\n    1,\n    "\\u00e9"\n  ]\n}\n'),
}


@pytest.fixture(params=[0o022, 0o077], autouse=True)
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    old = os.umask(request.param)
    yield request.param
    os.umask(old)


@pytest.mark.parametrize("writer", WRITERS)
def test_files_are_written_whole_with_usual_permissions(writer: str, mask: int, tmp_path: Path) -> None:
    write, content, expected = WRITERS[writer]
    path = tmp_path / "a.b"
    path.write_bytes(b"old")
    assert write(path, content) == path
    assert path.read_bytes() == expected
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    assert os.listdir(tmp_path) == ["a.b"]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_missing_folder_is_made_only_where_asked(writer: str, tmp_path: Path) -> None:
    write, content, expected = WRITERS[writer]
    path = tmp_path / "x" / "y" / "a"
    with pytest.raises(TapertuneError, match=r"^cannot write '.*y/a': No such file or directory$"):
        write(path, content)
    assert not (tmp_path / "x").exists()
    write(path, content, parents=True)
    assert path.read_bytes() == expected


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_a_body_that_fails_leaves_the_old_file(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    raised = TapertuneError if isinstance(error, OSError) else type(error)
    with pytest.raises(raised), files.whole_file(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise error
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with files.whole_file(tmp_path / "a") as first, files.whole_file(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first" and os.listdir(tmp_path) == ["a"]


def test_a_writer_that_makes_a_file_of_its_own_mode(mask: int, tmp_path: Path) -> None:
    with files.whole_file(tmp_path / "a.png") as temporary:
        assert temporary.suffix == ".png"
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("name", [".", "folder"])
def test_a_folder_in_the_way_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(TapertuneError, match=f"cannot write '{name}'"):
        files.write_text(Path(name), "a")
    assert os.listdir(tmp_path) == ["folder"]


def test_nan_is_written_where_allowed_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a", {"x": float("nan")})
    assert not os.listdir(tmp_path)
    files.write_json(tmp_path / "a", {"x": float("inf")}, allow_nan=True)
    assert files.read_json(tmp_path / "a") == {"x": float("inf")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read '.*a.json': No such file"),
        (b"{", "a.json: not JSON: Expecting"),
        (b"\xff", "a.json: not JSON: .*utf-8"),
        (b"[" * 100_000 + b"]" * 100_000, "a.json: not JSON .*nested too deeply"),
        (b"9" * 5000, "a.json: not JSON"),
        (b"[]", "a.json holds no JSON object"),
        (b"null", "a.json holds no JSON object"),
    ],
)
def test_what_is_no_json_object_is_named_in_a_line(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TapertuneError, match=message) as error:
        files.read_json_object(path)
    assert "\n" not in str(error.value)


def test_text_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff")
    for name, message in (("a", "not UTF-8 text"), ("none", "cannot read '.*none': No such file")):
        with pytest.raises(TapertuneError, match=message):
            files.read_text(tmp_path / name)


def test_folders_appear_whole(mask: int, tmp_path: Path) -> None:
    out = tmp_path / "x" / "out"
    with pytest.raises(RuntimeError), files.whole_folder(out) as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError
    assert not os.listdir(tmp_path / "x")
    with files.whole_folder(out) as temporary:
        (temporary / "a").write_text("whole")
        (temporary / "a").chmod(0o600)
        assert not out.exists()
    assert os.listdir(tmp_path / "x") == ["out"] and os.listdir(out) == ["a"]
    assert (out / "a").stat().st_mode & 0o777 == 0o666 & ~mask
    with pytest.raises(TapertuneError, match="out is not empty"), files.whole_folder(out):
        pass
    with pytest.raises(TapertuneError, match="a is a file"), files.whole_folder(out / "a"):
        pass
    with pytest.raises(TapertuneError, match=r"cannot write .*out: No space"), files.whole_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_files_are_renamed_into_place_here_alone() -> None:
    """One way to write a file whole."""
    renames: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.replace", "os.rename", "shutil.move"):
                renames.add(path.relative_to(SOURCE).as_posix())
    assert renames == {"files.py", *OTHER_RENAMES}


def test_json_files_are_read_here_alone() -> None:
    """JSON of a whole file; lines and headers of other formats are read where the format is known."""
    readers: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = ast.unparse(node) if isinstance(node, ast.Call) else ""
            whole = call.startswith(("json.loads(", "parse_json(")) and ("read_text" in call or "content" in call)
            if call.startswith("json.load(") or whole:
                readers.add(path.relative_to(SOURCE).as_posix())
    assert readers == {"files.py"}
