"""Opens a data file's bytes: of regular files alone, unpacked where they are packed, and never without end."""

from __future__ import annotations

import codecs
import gzip
import io
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import TapertuneError

LONGEST_LINE = 2**27  # bytes, or characters; a row is held whole
_LARGE, _RATIO = 2**26, 200  # a packed file of a larger size and ratio than these is no text
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before the next, which it begins with
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def check_file(path: Path) -> None:
    """Raises TapertuneError unless there is a regular file: a pipe could be waited for without end, and rows are read
    more than once."""
    try:
        if path.is_file():
            return
        there = path.exists()
    except (OSError, ValueError) as error:  # a name too long, or with a null character in it
        raise TapertuneError(f"cannot read {str(path)!r}: {error}") from error
    if there:
        raise TapertuneError(f"cannot read {str(path)!r}: it is {'a folder' if path.is_dir() else 'no regular file'}")
    raise TapertuneError(f"no such file: {str(path)!r}")


@contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedReader[Any]]:
    """A file's bytes; those that are packed in it where its name ends in ``.gz``.

    Raises:
        TapertuneError: while reading: the file unpacks to far more than text does.
    """
    check_file(path)
    with path.open("rb") as file:
        if not path.name.endswith(".gz"):
            yield file
            return
        with io.BufferedReader(_Unpacked(file, path), 2**16) as unpacked:
            yield unpacked


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    r"""A file's lines by number, without a byte order mark. Only ``\n`` ends one: JSON allows ``\r`` and U+2028 in its
    strings."""
    with open_bytes(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
            _check_line(path, number, line)
            yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def text_lines(path: Path, encoding: str | None) -> Generator[str, None, None]:
    r"""A file's lines as text, ended by ``\n``, ``\r`` or both, with their ends.

    Args:
        path: of the file.
        encoding: of a file that does not begin with a byte order mark; None for UTF-8.
    """
    number = 0
    with open_bytes(path) as file:
        chosen = marked_encoding(file.peek(4)[:4]) or encoding or "utf-8"
        text = io.TextIOWrapper(file, encoding=chosen, newline="")
        try:
            for number, line in enumerate(iter(lambda: text.readline(LONGEST_LINE + 1), ""), 1):
                _check_line(path, number, line)
                yield line
        except UnicodeError as error:
            # What was read ahead holds the error; the lines before it have been handed on.
            ahead = error.object[: error.start].count(b"\n") if isinstance(error, UnicodeDecodeError) else 0
            what = "UTF-8" if chosen.startswith("utf-8") else chosen
            hint = "save the file in that encoding, or name its own with task.encoding"
            raise TapertuneError(f"{path}, line {number + 1 + ahead}: not {what} text: {hint}") from error
        finally:
            text.detach()


def marked_encoding(start: bytes) -> str | None:
    """The encoding that a byte order mark at the start of a file names, or None."""
    return next((name for mark, name in _BOMS if start.startswith(mark)), None)


def whole(path: Path) -> bytes:
    """All of a file's bytes."""
    with open_bytes(path) as file:
        return file.read()


def _check_line(path: Path, number: int, line: bytes | str) -> None:
    if len(line) > LONGEST_LINE:
        raise TapertuneError(f"{path}, line {number}: it is longer than {LONGEST_LINE // 2**20} MiB, which no row is")


class _Unpacked(io.RawIOBase):
    """What a gzip file holds, as long as that is a believable multiple of its own size."""

    def __init__(self, packed: BinaryIO, path: Path) -> None:
        self._packed, self._path = packed, path
        self._file = gzip.GzipFile(fileobj=packed)
        self._size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self._size += count
        if self._size > _LARGE and self._size > _RATIO * self._packed.tell():
            raise TapertuneError(
                f"cannot read {str(self._path)!r}: it unpacks to more than {_RATIO} times its size, beyond"
                f" {_LARGE // 2**20} MiB. If that is meant, unpack it first"
            )
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
