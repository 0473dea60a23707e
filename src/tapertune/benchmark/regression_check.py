"""Whether steps have become dearer than a committed record says: counts exactly, ratios up to noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import TapertuneError
from ..kernels import kernel_name
from .job import Announce, Job, measure
from .schema import KERNEL, Measurement, Session, read_speed
from .setting import Setting

MODEL = "bert-2x384"
# Not the pruned ones: rounding can decide which ranks they are left with.
CHECKED = (
    "floor", "ours-lora", "ours-lora-dropout", "ours-adalora", "ours-aflora",
    "ours-aflora-frozen-a", "ours-aflora-frozen", "ours-lora2", "ours-loran", "ours-elora-256", "ours-sora",
)  # fmt: skip
# Beyond the record's median and spread: for a machine whose arithmetic and memory differ from the record's.
MARGIN = 0.10
ROUNDS = 9
ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is said of one variant.

    Attributes:
        ratio: the lowest median of all attempts.
        limit: what it may be.
        differing: counts that are not the record's, in words.
    """

    variant: str
    ratio: float
    limit: float
    differing: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return self.ratio <= self.limit and not self.differing


def take_record(out: Path, announce: Announce) -> Session:
    """Measures what later runs are held against, and writes it."""
    out.unlink(missing_ok=True)
    return measure(_job(CHECKED, out, 2 * ROUNDS), announce)


def check(record: Path, scratch: Path, announce: Announce) -> list[Verdict]:
    """Measures and judges every checked variant; what is too slow is measured again before it fails.

    Args:
        record: the committed file.
        scratch: where this run's figures are written.

    Raises:
        TapertuneError: the record cannot be read, or lacks a variant.
    """
    old, timed = recorded(record), kernel_of(record) == kernel_name()
    measured = _measured(CHECKED, scratch, announce)
    verdicts = {name: judge(old[name], measurement, timed) for name, measurement in measured.items()}
    for _ in range(ATTEMPTS - 1):
        slow = [name for name, verdict in verdicts.items() if verdict.ratio > verdict.limit]
        for name, again in (_measured(slow, scratch, announce) if slow else {}).items():
            verdict = judge(old[name], again)
            if verdict.ratio < verdicts[name].ratio:
                verdicts[name] = verdict
    return list(verdicts.values())


def recorded(path: Path) -> dict[str, Measurement]:
    """The record by variant.

    Raises:
        TapertuneError: it cannot be read, or lacks a checked variant.
    """
    measurements = {
        m.subject: m for session in read_speed(path).sessions for m in session.measurements if m.model == MODEL
    }
    missing = [name for name in CHECKED if name not in measurements]
    if missing:
        raise TapertuneError(f"{path} has no record of {', '.join(missing)}: make bench-record")
    return measurements


def kernel_of(path: Path) -> str | None:
    """The kernel that a record was made with; another one's times say nothing of this one's."""
    return next((session.versions.get(KERNEL) for session in read_speed(path).sessions), None)


def judge(old: Measurement, new: Measurement, timed: bool = True) -> Verdict:
    """A new measurement against the record's.

    Args:
        old, new: the record's and the new one's.
        timed: whether times are judged. The floor's ratio, to a second floor, is noise and never is.
    """
    spread = old.ratio.high - old.ratio.low
    limit = float("inf") if new.subject == "floor" or not timed else old.ratio.median + spread + MARGIN
    return Verdict(variant=new.subject, ratio=new.ratio.median, limit=limit, differing=differences(old, new))


def differences(old: Measurement, new: Measurement) -> tuple[str, ...]:
    """Counts that are not the same, in words."""
    pairs = {name: (getattr(old.counts, name), getattr(new.counts, name)) for name in type(old.counts).model_fields}
    # the floor's own counts are torch's and transformers' business
    pairs["saved_bytes"] = old.saved_bytes_beyond, new.saved_bytes_beyond
    pairs["flops"] = old.flops_beyond, new.flops_beyond
    return tuple(f"{name} {now:,}, recorded {was:,}" for name, (was, now) in pairs.items() if was != now)


def _measured(variants: tuple[str, ...] | list[str], scratch: Path, announce: Announce) -> dict[str, Measurement]:
    session = measure(_job(variants, scratch, ROUNDS), announce)
    return {m.subject: m for m in session.measurements if m.subject in variants}


def _job(variants: tuple[str, ...] | list[str], out: Path, rounds: int) -> Job:
    return Job(
        models=[MODEL], variants=variants, setting=Setting.model_validate({}), rounds=rounds, out=out, peak=False
    )
