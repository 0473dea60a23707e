"""What runs jobs: local processes, or a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from .jobs import Job


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of a job: its record (and events, where they are kept), or why it failed."""

    job: Job
    record: dict[str, Any] | None = None
    events: bytes | None = None
    reason: str = ""


class Engine(Protocol):
    """Runs jobs beside each other. ``close`` ends all that still run."""

    def has_room(self) -> bool:
        """Whether another job can begin now."""
        ...

    def submit(self, job: Job) -> None:
        """Begins a job."""
        ...

    def wait(self, seconds: float) -> list[Outcome]:
        """The jobs that end within that time; returns as soon as one has."""
        ...

    def running(self) -> list[Job]:
        """The jobs that run."""
        ...

    def close(self) -> None:
        """Ends what runs, and gives up what is held."""
        ...
