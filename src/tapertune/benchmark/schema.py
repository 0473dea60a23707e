"""The result file: sessions (a machine, versions, a setting) with what was measured in them. Typed, versioned."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ..errors import TapertuneError
from ..files import read_json, write_json
from ..runfile.record import Git, Hardware, validated
from .setting import Setting

VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Spread(_Part):
    """Median and inner quartiles of so many rounds."""

    median: float
    low: float
    high: float
    rounds: int

    def __repr_args__(self):
        return [(name, round(value, 4)) for name, value in super().__repr_args__()]


class Counts(_Part):
    """What one step is made of; the same on every machine.

    Attributes:
        saved_bytes: what autograd keeps for backward, without parameters and buffers; one entry a storage.
        flops: matrix operations of forward and backward.
        flops_declared: those that the chains declare for the adapter alone; None where there is no chain.
        kernel_nodes: nodes of the graph that are kernels of ours.
        trained: parameters that train.
        optimizer_bytes: of the optimizer's state.
    """

    saved_bytes: int
    flops: int
    flops_declared: int | None
    kernel_nodes: int
    trained: int
    optimizer_bytes: int


class Origin(_Part):
    """The code that was measured: a digest of its files, and the repository's state."""

    source: str
    git: Git


class Measurement(_Part):
    """One variant in one model.

    Attributes:
        seconds: of a step.
        ratio: to the floor's step of the same round; the floor's own is that of a second floor, and shows the noise.
        saved_bytes_beyond, flops_beyond: what the variant adds to the floor's counts.
        controller_seconds: mean of what the controller does in a step, decisions included; None without one.
        peak_rss_bytes: the most memory that a process which did nothing but this had; None where not measured.
        peak_device_bytes: the most that the allocator of a GPU held during a step.
    """

    model: str
    subject: str
    origin: Origin
    seconds: Spread
    ratio: Spread
    counts: Counts
    saved_bytes_beyond: int
    flops_beyond: int
    controller_seconds: float | None = None
    peak_rss_bytes: int | None = None
    peak_device_bytes: int | None = None

    @property
    def controller_share(self) -> float | None:
        """Of the step's time."""
        return None if self.controller_seconds is None else self.controller_seconds / self.seconds.median


class Growth(_Part):
    """What happens around an optimizer step, for a number of modules; means over steps, decisions included."""

    model: str
    subject: str
    origin: Origin
    modules: int
    controller_seconds: float
    optimizer_seconds: float


class Bin(_Part):
    """Some consecutive steps of a run; ``ratio`` is to the floor's steps taken between them."""

    first: int
    last: int
    ratio: Spread
    trained: int


class FullRun(_Part):
    """A whole run of a plan, in which steps get cheaper."""

    model: str
    subject: str
    origin: Origin
    steps: int
    bins: list[Bin]


KERNEL = "kernel"  # beside the versions: the kernel that computed adapted layers


class Session(_Part):
    """What was measured on one machine, with one set of versions, in one setting."""

    hardware: Hardware
    versions: dict[str, str]
    setting: Setting
    measurements: list[Measurement] = []
    growths: list[Growth] = []
    tapers: list[FullRun] = []

    def find(self, model: str, variant: str) -> Measurement | None:
        return next((m for m in self.measurements if (m.model, m.subject) == (model, variant)), None)


class SpeedFile(_Part):
    """The whole file."""

    schema_version: int = VERSION
    sessions: list[Session] = []

    def session(self, setting: Setting, hardware: Hardware, versions: dict[str, str]) -> Session:
        """The session of a setting on a machine, a new one where there is none. One of the same setting with other
        versions is replaced, so that no table mixes them."""
        for session in self.sessions:
            if (session.setting, session.hardware, session.versions) == (setting, hardware, versions):
                return session
        self.sessions = [s for s in self.sessions if (s.setting, s.hardware.cpu) != (setting, hardware.cpu)]
        self.sessions.append(Session(setting=setting, hardware=hardware, versions=versions))
        return self.sessions[-1]


def read_speed(path: Path) -> SpeedFile:
    """
    Raises:
        TapertuneError: there is no such file, or it is no result of this schema.
    """
    data = read_json(path)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != VERSION:
        raise TapertuneError(f"{path}: schema_version is {version!r}; this tapertune reads {VERSION}")
    return validated(SpeedFile, data, path)


def write_speed(path: Path, file: SpeedFile) -> None:
    """Writes the file, whole or not at all; its folder is made where missing.

    Raises:
        TapertuneError: it cannot be written there.
    """
    write_json(path, file.model_dump(mode="json"), parents=True)
