"""Files read with errors of one line, and files and folders that appear whole or not at all. Standard library only.

What is written lies under a temporary name in the same folder until it is whole, and then takes its place; it has the
permissions that any new file of that folder gets, whatever the writer gave it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import TapertuneError

Name = str | os.PathLike[str]
LARGEST_TEXT = 256 << 20  # bytes; an index of the largest public models has some 10 MB


def read_text(path: Name, largest: int = LARGEST_TEXT) -> str:
    """A UTF-8 file's text.

    Args:
        path: of the file; a pipe is not waited for, unless the user has named the process's own (``/dev/stdin``).
        largest: bytes that it may have.

    Raises:
        TapertuneError: it cannot be read, is larger, or is not UTF-8.
    """
    content = read_bytes(path, largest)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TapertuneError(f"{path}: not UTF-8 text (byte {error.start})") from error


def read_bytes(path: Name, largest: int) -> bytes:
    """A file's bytes; arguments and errors as those of ``read_text``."""
    try:
        kind = os.stat(path).st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind) and not str(path).startswith(("/dev/", "/proc/self/fd/")):
            raise TapertuneError(f"cannot read {str(path)!r}: it is no regular file")
        with open(path, "rb") as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise TapertuneError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, TapertuneError):
            raise
        raise TapertuneError(f"cannot read {str(path)!r}: {error}") from error  # a name with a null character in it
    if len(content) > largest:
        raise TapertuneError(f"cannot read {str(path)!r}: it has more than {largest:,} bytes")
    return content


def read_json(path: Name) -> Any:
    """A file's JSON value.

    Raises:
        TapertuneError: the file cannot be read, or is not JSON that can be used: it is nested deeply, or holds halves
            of characters.
    """
    content = read_bytes(path, LARGEST_TEXT)
    try:
        return parse_json(content.decode("utf-8"))
    except RecursionError as error:
        raise TapertuneError(f"{path}: not JSON that can be read: it is nested too deeply") from error
    except ValueError as error:
        raise TapertuneError(f"{path}: not JSON: {error}") from error


def parse_json(text: str) -> Any:
    r"""A JSON text's value.

    Raises:
        ValueError: it is not JSON, or holds half of a character (``\ud800``), which could not be written anywhere.
        RecursionError: it is nested deeply.
    """
    value = json.loads(text)
    if "\\ud" in text or "\\uD" in text:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def read_json_object(path: Name) -> dict[str, Any]:
    """A file's JSON object.

    Raises:
        TapertuneError: as ``read_json``, and where the file holds another value, such as a list.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise TapertuneError(f"{path} holds no JSON object")
    return value


@contextmanager
def whole_file(path: Name, *, parents: bool = False) -> Iterator[Path]:
    """A temporary file beside ``path`` that replaces it at the end, and is gone if the body fails.

    Args:
        path: of the file.
        parents: whether to make its folder where there is none.

    Yields:
        The temporary file's path: an empty file, with the ending of ``path``, for the body to write.

    Raises:
        TapertuneError: the file cannot be written there, or the body raised an OSError.
    """
    target = Path(path)
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp{target.suffix[:16]}"
    try:
        if parents:
            target.parent.mkdir(parents=True, exist_ok=True)
        usual = _new_file(temporary)
        yield temporary
        _widen(temporary, usual)
        os.replace(temporary, target)
    except OSError as error:
        raise TapertuneError(f"cannot write {str(target)!r}: {error.strerror or error}") from error
    finally:
        # only a failed write leaves it, and then the reason above matters more than one for not removing it
        with suppress(OSError):
            temporary.unlink()


def write_bytes(path: Name, content: bytes, *, parents: bool = False) -> Path:
    """Writes a file whole, also where the machine stops; errors as those of ``whole_file``."""
    with whole_file(path, parents=parents) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return Path(path)


def write_text(path: Name, text: str, *, parents: bool = False) -> Path:
    """Writes a UTF-8 file whole, lines ending as they do in ``text``; errors as those of ``whole_file``.

    Halves of characters, which names in JSON may hold and UTF-8 cannot, are written as question marks.
    """
    return write_bytes(path, text.encode("utf-8", errors="replace"), parents=parents)


def write_json(path: Name, value: Any, *, parents: bool = False, allow_nan: bool = False) -> Path:
    """Writes JSON whole.

    Args:
        path: of the file.
        value: what ``json`` takes.
        parents: whether to make its folder where there is none.
        allow_nan: whether to write NaN and infinity, which Python reads and JSON does not have.

    Raises:
        TapertuneError: as ``whole_file``.
        ValueError: NaN or infinity is in it, and not allowed.
    """
    return write_text(path, json.dumps(value, indent=2, allow_nan=allow_nan) + "\n", parents=parents)


def check_free(out: Path) -> None:
    """Raises TapertuneError where ``out`` is a file, or a folder with something in it."""
    if out.is_dir() and any(out.iterdir()):
        raise TapertuneError(f"{out} is not empty; name a new folder")
    if (out.exists() or out.is_symlink()) and not out.is_dir():
        raise TapertuneError(f"{out} is a file; name a new folder")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` that becomes it at the end, and is gone if the body fails.

    Raises:
        TapertuneError: ``out`` is taken, nothing can be written there, or the body raised an OSError.
    """
    check_free(out)
    temporary = out.parent / f".{out.name[:40]}.{secrets.token_hex(8)}.tmp"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        usual_permissions(temporary)
        if out.exists():
            out.rmdir()
        os.replace(temporary, out)
    except OSError as error:
        raise TapertuneError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


# of ``whole_file`` and ``whole_folder``, of safetensors, and of earlier versions
_TEMPORARY = re.compile(r"\.(.+\.)?[0-9a-f]{16}\.tmp(\..*)?|\.tmp[0-9A-Za-z]{6}|run\.json\.tmp", re.DOTALL)


def is_temporary(name: str) -> bool:
    """Whether a file of that name is one that a process was writing when it was killed: of ours, or of safetensors,
    which has files appear whole in the same way.

    >>> is_temporary(".0123456789abcdef.tmp.json"), is_temporary(".tmpxz4ZaS"), is_temporary("notes.tmp")
    (True, True, False)
    """
    return _TEMPORARY.fullmatch(name) is not None


def drop_temporaries(folder: Path) -> None:
    """Deletes the files in a folder that processes were writing when they were killed. Nobody may write there."""
    for path in folder.iterdir():
        if is_temporary(path.name) and path.is_file():
            with suppress(OSError):  # they only take room
                path.unlink()


def usual_permissions(folder: Path) -> None:
    """Gives a folder's own files the permissions that a new file gets there.

    safetensors writes under a temporary name that its owner alone may read and keeps that mode: a server under another
    account could not read the weights. Permissions that are wider already are left, and links are not followed.
    """
    try:
        usual = _usual(folder)
    except OSError:  # nothing can be written here: then nothing was
        return
    for path in folder.iterdir():
        if path.is_file() and not path.is_symlink():
            with suppress(OSError):  # not the owner: the file is none that was written just now
                _widen(path, usual)


def _new_file(path: Path) -> int:
    """Makes an empty file, which must not be there yet, and returns its permissions."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)


def _usual(folder: Path) -> int:
    """The permissions that a new file gets in a folder: those of one that has no name, where the system makes such, as
    one with a name would stay if the process were killed now."""
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except (AttributeError, OSError):
        probe = folder / f".{secrets.token_hex(8)}.tmp"
        usual = _new_file(probe)
        probe.unlink()
        return usual
    try:
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)


def _widen(path: Path, usual: int) -> None:
    mode = path.stat().st_mode & 0o777
    if mode | usual != mode:
        path.chmod(mode | usual)
