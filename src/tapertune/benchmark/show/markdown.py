"""The tables of docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ..base_models import MODELS
from ..full_run import FULL_RUNS
from ..schema import KERNEL, FullRun, Growth, Measurement, Session
from ..setting import Setting
from ..variants import COMPILED, FLOOR, VARIANTS
from .comparison import COMPARISON, DECODER, LARGE, SMALL, Row
from .terminal import peak_beyond, with_range

_MISSING = "-"


def machine(session: Session) -> str:
    """What the figures were measured on."""
    versions = ", ".join(f"{name} {session.versions[name]}" for name in ("torch", "transformers", "peft"))
    versions += f"; kernel {session.versions[KERNEL]}" if KERNEL in session.versions else ""
    commits = ", ".join(sorted({(m.origin.git.commit or "no repository")[:10] for m in session.measurements}))
    dirty = " with uncommitted changes" if any(m.origin.git.dirty for m in session.measurements) else ""
    where = session.hardware.gpu if session.setting.device == "cuda" else session.hardware.cpu
    return f"Measured with: {session.setting.describe()}; {where}; {versions}; commit {commits}{dirty}.\n"


def comparison(session: Session) -> str:
    """Each method against PEFT's or the naive form and against its targets."""
    heads = ("method", f"PEFT or naive, {SMALL}", LARGE, "target", f"now, {SMALL}", LARGE, DECODER)
    return _table(heads, (_compared(session, row) for row in COMPARISON))


def _compared(session: Session, row: Row) -> list[str]:
    return [
        row.title,
        *(_cell(session, model, row.theirs) for model in (SMALL, LARGE)),
        _target(row),
        *(f"{_cell(session, model, row.ours)}{_beside(session, row, model)}" for model in (SMALL, LARGE, DECODER)),
    ]


def beside(session: Session) -> str:
    """Each method next to PEFT's or the naive form, for the models that the session has."""
    models = [name for name in MODELS if session.find(name, FLOOR) is not None]
    heads = ["method", *(head for name in models for head in (f"PEFT or naive, {name}", f"now, {name}"))]
    rows = (
        [row.title, *(_cell(session, name, variant) for name in models for variant in (row.theirs, row.ours))]
        for row in COMPARISON
    )
    table = _table(heads, rows)
    return f"{machine(session)}\n{table}\n{compiled(session)}".rstrip("\n") + "\n"


def compiled(session: Session) -> str:
    """What ``torch.compile`` makes of some variants, for the models of which that has been measured."""
    models = [name for name in MODELS if any(session.find(name, variant) for variant in COMPILED)]
    if not models:
        return ""
    heads = ["under torch.compile", *(head for name in models for head in (f"eager, {name}", f"compiled, {name}"))]
    pairs = [(variant.removeprefix("compiled-"), variant) for variant in COMPILED]
    rows = (
        [VARIANTS[pair[0]].what, *(_cell(session, name, variant) for name in models for variant in pair)]
        for pair in pairs
    )
    return _table(heads, rows)


def _cell(session: Session, model: str, variant: str | None) -> str:
    measurement = None if variant is None else session.find(model, variant)
    return _MISSING if measurement is None else measured(measurement)


def measured(row: Measurement) -> str:
    return f"{with_range(row.ratio)}, {row.saved_bytes_beyond / 2**20:+,.0f} MB"


def _target(row: Row) -> str:
    if row.within is not None:
        return f"{row.within[1]:.0%} beyond a model built at those ranks"
    parts = [f"{value:.2f}" for model in (SMALL, LARGE) if (value := row.ratio.get(model)) is not None]
    memory = sorted(set(row.megabytes.values()))
    return "; ".join([*parts, *(f"{value:+.0f} MB" for value in memory)]) or _MISSING


def _beside(session: Session, row: Row, model: str) -> str:
    """How far beyond the variant that it is to stay near."""
    mine = session.find(model, row.ours)
    other = session.find(model, row.within[0]) if row.within else None
    return f"; {mine.ratio.median / other.ratio.median - 1:+.1%}" if mine and other else ""


def everything(session: Session) -> str:
    """A table for each model, a line for each variant."""
    heads = (
        "subject", "ratio to floor", "MB beyond floor", "optimizer, KB", "peak MB beyond", "GFLOP beyond", "declared",
        "nodes", "controller",
    )  # fmt: skip
    sections = []
    for model in MODELS:
        rows = [m for name in VARIANTS if (m := session.find(model, name)) is not None]
        if rows:
            base = session.find(model, FLOOR)
            title = f"**{model}** ({MODELS[model].what})"
            if base is not None:
                kept = base.counts.saved_bytes / 2**20
                title += f", the floor: {base.seconds.median * 1e3:,.0f} ms, {kept:,.0f} MB saved for backward"
            sections.append(f"{title}\n\n{_table(heads, (_whole(m, base) for m in rows))}")
    return "\n".join(sections)


def _whole(row: Measurement, base: Measurement | None) -> list[str]:
    counts, share = row.counts, row.controller_share
    return [
        VARIANTS[row.subject].what,
        with_range(row.ratio),
        f"{row.saved_bytes_beyond / 2**20:+,.1f}",
        f"{counts.optimizer_bytes / 2**10:,.0f}",
        peak_beyond(row, base) or _MISSING,
        f"{row.flops_beyond / 1e9:,.2f}",
        _MISSING if counts.flops_declared is None else f"{counts.flops_declared / 1e9:,.2f}",
        str(counts.kernel_nodes),
        _MISSING if share is None else f"{share:.1%}",
    ]


def growths(rows: Iterable[Growth]) -> str:
    """The controller over the number of modules."""
    heads = ("subject", "model", "modules", "controller, ms a step", "optimizer, ms a step")
    return _table(
        heads,
        (
            [
                VARIANTS[row.subject].what, row.model, str(row.modules),
                f"{row.controller_seconds * 1e3:.1f}", f"{row.optimizer_seconds * 1e3:.1f}",
            ]
            for row in rows
        ),
    )  # fmt: skip


def full_runs(rows: Iterable[FullRun]) -> str:
    """The first and the last part of each run."""
    heads = ("run", "model", "steps", "first tenth", "last tenth", "trained at first", "at the end")
    cells = (
        [
            FULL_RUNS[run.subject].what, run.model, str(run.steps), with_range(run.bins[0].ratio),
            with_range(run.bins[-1].ratio), f"{run.bins[0].trained:,}", f"{run.bins[-1].trained:,}",
        ]
        for run in rows
    )  # fmt: skip
    return _table(heads, cells)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines: list[Sequence[str]] = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


PARTS: dict[str, Callable[[Session], str]] = {
    "machine": machine,
    "comparison": comparison,
    "everything": everything,
    "growth": lambda session: growths(session.growths),
    "taper": lambda session: full_runs(session.tapers),
    "compiled": compiled,
}


def parts_of(setting: Setting) -> Mapping[str, Callable[[Session], str]]:
    """What of the page a session with this setting fills: most of it, or a part of its own.

    >>> list(parts_of(Setting(dtype="bfloat16", batch=1, length=32)))
    ['bfloat16-32']
    """
    usual = Setting.model_validate({})
    own = setting.device if setting.device != usual.device else setting.dtype
    if setting.tokens != usual.tokens:
        return {f"{own}-{setting.tokens}": beside}
    return PARTS if own == usual.dtype else {own: beside}
