"""Measures variants in models, group by group, and writes what it has after each."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..kernels import kernel_name
from ..runfile.environment import git_state, hardware, versions
from .base_models import Base, make_base
from .candidate import Candidate, frozen_reference
from .controller_time import controller_seconds, growth
from .counts import count
from .full_run import FULL_RUNS, full_run
from .peak_memory import peak_rss
from .schema import KERNEL, Counts, Measurement, Origin, Session, SpeedFile, read_speed, write_speed
from .setting import Setting
from .timing import Seconds, ratios, spread, time_rounds
from .variants import ALL, build

# So many variants take turns with one floor: the fewer, the closer in time is the floor that each is held against.
_GROUP = 5
_REFERENCE = "reference"
GROWTH_MODELS = ("bert-12x768", "llama-32x1024")  # 72 and 224 modules
GROWTH_VARIANTS = ("ours-adalora", "ours-aflora", "ours-lora2", "ours-lora")
Announce = Callable[[str, int], Callable[[], None]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be measured.

    Attributes:
        models, variants: names of rows.
        rounds: steps of each that are timed.
        out: the result file; what it has of other models, variants and settings stays.
        resume: keep what the file has of the same code.
        peak: measure peak memory too, each variant in a process of its own.
        growth: measure the controller over the number of modules.
        full_run_steps: steps of the runs that follow a plan to its end; 0 for none.
    """

    models: Sequence[str]
    variants: Sequence[str]
    setting: Setting
    rounds: int
    out: Path
    resume: bool = False
    peak: bool = True
    growth: bool = False
    full_run_steps: int = 0


def measure(job: Job, announce: Announce) -> Session:
    """Measures what a job says and returns the session it belongs to.

    Args:
        announce: called with a label and a number of steps ahead; what it returns is called after each step.

    Raises:
        TapertuneError: no such device or model, or a result file that cannot be read or written.
    """
    job.setting.prepare()
    file = read_speed(job.out) if job.out.is_file() else SpeedFile()
    session = file.session(job.setting, hardware(), {**versions(), KERNEL: kernel_name()})
    origin = Origin(source=source_digest(), git=git_state())
    write = lambda: write_speed(job.out, file)  # noqa: E731
    for model in job.models:
        names = [n for n in job.variants if not (job.resume and _known(session.find(model, n), origin, job))]
        base = make_base(model, job.setting) if names else None
        for group in _groups(names):
            assert base is not None
            measured = _measure_group(job, base, model, group, origin, announce)
            session.measurements = _merged(session.measurements, measured)
            write()
        if job.full_run_steps:
            _full_runs(job, session, model, base, origin, announce, write)
    if job.growth:
        _growths(job, session, origin, announce, write)
    return session


def _known(old: Measurement | None, origin: Origin, job: Job) -> bool:
    return (
        old is not None
        and old.origin.source == origin.source
        and old.ratio.rounds >= job.rounds
        and (old.peak_rss_bytes is not None or not _peaks(job))
    )


def _peaks(job: Job) -> bool:
    return job.peak and job.setting.device == "cpu"


def _groups(names: Sequence[str]) -> Iterator[list[str]]:
    """Groups of nearly equal size, in order."""
    count = -(-len(names) // _GROUP)
    for i in range(count):
        yield list(names[i * len(names) // count : (i + 1) * len(names) // count])


def _measure_group(
    job: Job, base: Base, model: str, group: list[str], origin: Origin, announce: Announce
) -> list[Measurement]:
    advance = announce(f"{model}: {', '.join(group)}", (len(group) + 1) * (job.rounds + 1) + len(group) * _peaks(job))
    candidates: dict[str, Candidate] = {_REFERENCE: frozen_reference(base)}
    for name in group:
        candidates[name] = build(name, base)
    counts: dict[str, Counts] = {}
    for name, candidate in candidates.items():
        counts[name] = count(candidate)
        candidate.step()  # what is compiled is compiled when nothing looks on
        advance()
    device = {name: _device_peak(c, job.setting) for name, c in candidates.items()}
    times = time_rounds(candidates, job.setting, job.rounds, progress=advance)
    control = {
        name: controller_seconds(c, base, job.setting)[0] for name, c in candidates.items() if c.controller is not None
    }
    del candidates
    gc.collect()
    peaks: dict[str, int] = {}
    for name in group if _peaks(job) else []:
        peaks[name] = peak_rss(model, name, job.setting)
        advance()
    return [
        _measurement(name, model, origin, times, counts).model_copy(
            update={
                "controller_seconds": control.get(name),
                "peak_rss_bytes": peaks.get(name),
                "peak_device_bytes": device[name],
            }
        )
        for name in group
    ]


def _measurement(name: str, model: str, origin: Origin, times: Seconds, counts: dict[str, Counts]) -> Measurement:
    mine, reference = counts[name], counts[_REFERENCE]
    return Measurement(
        model=model,
        subject=name,
        origin=origin,
        seconds=spread(times[name]),
        ratio=spread(ratios(times[name], times[_REFERENCE])),
        counts=mine,
        saved_bytes_beyond=mine.saved_bytes - reference.saved_bytes,
        flops_beyond=mine.flops - reference.flops,
    )


def _device_peak(candidate: Candidate, setting: Setting) -> int | None:
    """What a step takes of a GPU's memory at most, beyond what is there before it."""
    if setting.device != "cuda":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    candidate.step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _merged(old: Sequence[Measurement], new: Sequence[Measurement]) -> list[Measurement]:
    """In the order of the tables; what is measured anew replaces what was there."""
    from .base_models import MODELS

    by_place = {(m.model, m.subject): m for m in (*old, *new)}
    places = {name: i for i, name in enumerate((*MODELS, *ALL))}
    return sorted(by_place.values(), key=lambda m: (places.get(m.model, -1), places.get(m.subject, -1)))


def _full_runs(
    job: Job,
    session: Session,
    model: str,
    base: Base | None,
    origin: Origin,
    announce: Announce,
    write: Callable[[], None],
) -> None:
    for variant in (name for name in FULL_RUNS if name in job.variants):
        old = [t for t in session.tapers if (t.model, t.subject) == (model, variant)]
        if job.resume and old and old[0].origin.source == origin.source and old[0].steps == job.full_run_steps:
            continue
        base = base or make_base(model, job.setting)
        advance = announce(f"{model}: {variant} from first step to last", job.full_run_steps)
        new = full_run(base, variant, model, job.setting, origin, steps=job.full_run_steps, progress=advance)
        session.tapers = [*(t for t in session.tapers if t not in old), new]
        write()


def _growths(job: Job, session: Session, origin: Origin, announce: Announce, write: Callable[[], None]) -> None:
    for model in GROWTH_MODELS:
        for variant in (name for name in GROWTH_VARIANTS if name in job.variants):
            old = [g for g in session.growths if (g.model, g.subject) == (model, variant)]
            if job.resume and old and old[0].origin.source == origin.source:
                continue
            advance = announce(f"{model}: controller of {variant}", 1)
            new = growth(model, variant, job.setting, origin)
            advance()
            session.growths = [*(g for g in session.growths if g not in old), new]
            write()


def source_digest() -> str:
    """Of the files that a measurement depends on; pages and commands may change without it."""
    package = Path(__file__).parents[1]
    folders = ("methods", "kernels", "adapt", "host", "integrations")
    files = [path for folder in folders for path in (package / folder).rglob("*")]
    files = [path for path in files if path.suffix in (".py", ".cpp", ".hpp")]
    files += [*Path(__file__).parent.glob("*.py"), package / "cost" / "adapted_layers.py"]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]
