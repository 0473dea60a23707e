"""The store: a folder with one file a run. Files are written whole or not at all, so that any number of processes, of
any number of machines, write into one store, and that stopping any of them at any moment loses nothing but its run.

    store.json         what all its runs share: model, rows of each task, versions
    runs/DIGEST.json   a run's record
    events/            what was frozen and pruned, of runs that keep it (gzip)
    failures/          why a run failed, until it succeeds
    claims/            which process makes which run
"""

from __future__ import annotations

import gzip
import json
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..errors import TapertuneError
from ..files import LARGEST_TEXT, read_json, write_bytes
from ..runfile import environment
from ..runfile.record import validated
from .claims import Claims
from .jobs import Comparison
from .record import VERSION, RunRecord

HEADER = "store.json"
_VERSIONED = ("tapertune", "torch", "transformers", "peft")


class _Model(BaseModel):
    name: str
    digest: str


class _Rows(BaseModel):
    rows: dict[str, int]
    digests: dict[str, str]


class _Header(BaseModel):
    schema_version: int
    model: _Model
    tasks: dict[str, _Rows]
    versions: dict[str, str]


class Store:
    """A store that is open for a grid."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.claims = Claims(folder / "claims")
        self._known: dict[str, RunRecord] = {}

    def check(self, comparison: Comparison) -> dict[str, Any]:
        """The header that the store has with this grid; nothing is written.

        Raises:
            TapertuneError: it has another model, other rows or other versions, so that its runs and those of the grid
                may not stand in one table; or it is no store.
        """
        path = self.folder / HEADER
        if self.folder.exists() and not self.folder.is_dir():
            raise TapertuneError(f"--store {str(self.folder)!r} is a file; it must be a folder")
        if self.folder.exists() and not path.is_file() and any(self.folder.iterdir()):
            raise TapertuneError(f"--store {str(self.folder)!r} holds files that are no store's: choose another")
        mine = header_of(comparison)
        return _joined(path, _header(path), mine) if path.is_file() else mine

    def prepare(self, comparison: Comparison) -> None:
        """Makes the store, or adds this grid's tasks to it.

        Raises:
            TapertuneError: as ``check``; or it cannot be written.
        """
        mine, path = self.check(comparison), self.folder / HEADER
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TapertuneError(f"cannot write {str(self.folder)!r}: {error.strerror or error}") from error
        ignored = self.folder / ".gitignore"
        if not ignored.is_file():
            write_bytes(ignored, b"claims/\n*.tmp*\n", parents=True)
        write_bytes(path, _text(mine), parents=True)

    def records(self) -> dict[str, RunRecord]:
        """All records by digest; files that are known already are not read again.

        Raises:
            TapertuneError: a file is no record.
        """
        folder = self.folder / "runs"
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
            if path.stem not in self._known:
                self._known[path.stem] = _record(path)
        return dict(self._known)

    def has(self, digest: str) -> bool:
        return digest in self._known or (self.folder / "runs" / f"{digest}.json").is_file()

    def write(self, record: dict[str, Any], events: bytes | None = None) -> None:
        """Keeps a run's record, and its events beside it."""
        digest = record["digest"]
        if events is not None:
            write_bytes(self.folder / "events" / f"{digest}.jsonl.gz", gzip.compress(events, mtime=0), parents=True)
        write_bytes(self.folder / "runs" / f"{digest}.json", _text(record, indent=None), parents=True)
        with suppress(FileNotFoundError):
            (self.folder / "failures" / f"{digest}.json").unlink()

    def note_failure(self, digest: str, label: str, reason: str) -> None:
        """Keeps why a run failed. It is tried again when the grid is run again."""
        write_bytes(self.folder / "failures" / f"{digest}.json", _text({"run": label, "reason": reason}), parents=True)

    def events(self, digest: str) -> bytes | None:
        """A run's events, where they were kept.

        Raises:
            TapertuneError: the file is damaged.
        """
        path = self.folder / "events" / f"{digest}.jsonl.gz"
        if not path.is_file():
            return None
        try:
            with gzip.open(path) as file:
                content = file.read(LARGEST_TEXT + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise TapertuneError(f"cannot read {str(path)!r}: {error}") from error
        if len(content) > LARGEST_TEXT:
            raise TapertuneError(f"cannot read {str(path)!r}: it unpacks to more than {LARGEST_TEXT:,} bytes")
        return content


def header_of(comparison: Comparison) -> dict[str, Any]:
    """What all runs of a store share."""
    versions = environment.versions()
    return {
        "schema_version": VERSION,
        "model": {"name": _model_name(comparison), "digest": comparison.model},
        "tasks": {name: {"rows": s.counts, "digests": s.digests} for name, s in comparison.splits.items()},
        "versions": {name: versions[name] for name in _VERSIONED},
    }


def _model_name(comparison: Comparison) -> str:
    name = str(next(iter(comparison.raw.values()))["model"])
    return Path(name).name if Path(name).is_dir() else name


def _header(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("schema_version"), int):
        raise TapertuneError(f"{path}: not a store's header: it has no schema_version")
    if found["schema_version"] > VERSION:
        raise TapertuneError(f"{path}: schema {found['schema_version']}; this tapertune reads up to {VERSION}")
    return validated(_Header, found, path).model_dump()


def _joined(path: Path, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Both headers as one.

    Raises:
        TapertuneError: they do not fit; the first difference is named.
    """
    hint = f"its runs cannot stand in one table with this grid's: name another --store than {str(path.parent)!r}"
    if old["model"] != new["model"]:
        raise TapertuneError(f"{path}: model is {_shown(old['model'])}, the grid's is {_shown(new['model'])}; {hint}")
    for name in old["versions"].keys() & new["versions"].keys():
        if old["versions"][name] != new["versions"][name]:
            raise TapertuneError(
                f"{path}: made with {name} {old['versions'][name]}, here is {new['versions'][name]}; {hint}"
            )
    for task in old["tasks"].keys() & new["tasks"].keys():
        for part in ("rows", "digests"):
            was, now = old["tasks"][task][part], new["tasks"][task][part]
            for split in was:
                if was[split] != now.get(split):
                    what = "rows" if part == "rows" else "(a digest of the rows)"
                    raise TapertuneError(
                        f"{path}: tasks.{task} has {was[split]} {split} {what}, the grid's has {now.get(split)}; {hint}"
                    )
    return {**new, "tasks": {**old["tasks"], **new["tasks"]}}


def _shown(model: dict[str, Any]) -> str:
    return f"{model['name']!r} ({model['digest'][:8]})"


def _record(path: Path) -> RunRecord:
    data = read_json(path)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int):
        raise TapertuneError(f"{path}: not a run's record: it has no schema_version")
    if version > VERSION:
        raise TapertuneError(f"{path}: schema {version}; this tapertune reads up to {VERSION}")
    record = validated(RunRecord, data, path)
    if record.digest != path.stem:
        raise TapertuneError(f"{path}: it is the record of {record.digest}; files of a store keep their names")
    return record


def _text(data: Any, indent: int | None = 2) -> bytes:
    return (json.dumps(data, indent=indent, allow_nan=False) + "\n").encode()
