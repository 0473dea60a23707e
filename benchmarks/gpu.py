"""Measures what a step costs on one card, the most telling rows first, and writes each as soon as it is measured.

    python benchmarks/gpu.py --out benchmarks/speed/gpu.json [--minutes 9.5] [--write-docs docs/performance.md]
    python benchmarks/gpu.py --toy --out /tmp/gpu.json      # every row at toy sizes, on the processor too

Offline: models are made from configs with random weights, in bfloat16. It may be cut off at any moment: what is in the
file then is whole, and the next call measures what is missing. No row begins for which there would be no time, as
far as rows like it have shown.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tapertune.benchmark.base_models import Base, make_base
from tapertune.benchmark.baselines import baseline, baseline_adalora
from tapertune.benchmark.candidate import Candidate, repeatable
from tapertune.benchmark.job import source_digest
from tapertune.benchmark.ours import Build, frozen, ours
from tapertune.benchmark.setting import Setting
from tapertune.benchmark.timing import clock_of
from tapertune.errors import TapertuneError
from tapertune.files import read_json_object, write_json, write_text
from tapertune.kernels import paths
from tapertune.runfile.environment import git_state, hardware, versions

VERSION = 1
STEPS, FEW_STEPS, TOY_STEPS = 8, 3, 1
TOKENS = (64, 256, 1024)  # of inputs around the bound below which layers compute in torch's own operations
MARK = ("<!-- gpu:start -->", "<!-- gpu:end -->")


@dataclass(frozen=True)
class Case:
    """A model and the batches that it is fed.

    Attributes:
        name: of the model.
        batch, length: rows, and tokens in each.
        r: rank of every method.
    """

    name: str
    batch: int
    length: int
    r: int = 32


CASES = (Case("llama-3b", 4, 1024), Case("qwen2.5-0.5b", 8, 1024), Case("smollm2", 8, 1024))
TOYS = (Case("llama-1x64", 2, 16, 4),)


def variants(r: int) -> dict[str, Build]:
    """What is measured, by name, the most telling first."""
    lora: dict[str, Any] = {"r": r, "lora_alpha": 2 * r}
    return {
        "peft-lora": baseline("LoraConfig", **lora),
        "lora": ours("lora", **lora),
        "lora-dropout": ours("lora", dropout=0.1, **lora),
        "adalora": ours("adalora", init_r=r),
        "peft-lora-dropout": baseline("LoraConfig", lora_dropout=0.1, **lora),
        "peft-adalora": baseline_adalora(r),
        "aflora": ours("aflora", r=r, projection_scope="all"),
        "aflora-frozen": frozen("aflora", ["A", "B"], r=r, projection_scope="all"),
    }


COMPILED = ("peft-lora", "lora", "lora-dropout", "adalora")


class Sheet:
    """The file of results: rows by name, written whole after each.

    Args:
        path: the file; rows of the same code, card and sizes that are in it stay.
        facts: what its rows have in common.
        minutes: after which none begins.
    """

    def __init__(self, path: Path, facts: dict[str, Any], minutes: float) -> None:
        self.path, self.facts = path, facts
        self.end = time.monotonic() + 60 * minutes
        self.rows: dict[str, Any] = {}
        self._seconds: dict[str, float] = {}
        if path.is_file():
            saved = read_json_object(path)
            if {key: saved.get(key) for key in facts} == facts:
                self.rows = dict(saved.get("rows", {}))

    def add(self, name: str, kind: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Measures a row, unless it is there or there is no time for it."""
        if name in self.rows and "error" not in self.rows[name]:
            return
        if time.monotonic() + self._seconds.get(kind, 0.0) > self.end:
            print(f"{name}: no time left", file=sys.stderr)
            return
        began = time.monotonic()
        try:
            row = measure()
        except (RuntimeError, TapertuneError) as error:  # out of memory, a compiler that is missing
            row = {"error": str(error).strip().splitlines()[0][:200]}
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._seconds[kind] = max(self._seconds.get(kind, 0.0), time.monotonic() - began)
        self.rows[name] = row
        write_json(self.path, {**self.facts, "rows": self.rows}, parents=True)
        print(f"{name}: {json.dumps(row)}", file=sys.stderr)


def measured(candidate: Candidate, setting: Setting, steps: int) -> dict[str, Any]:
    """Seconds and tokens a second of a step, and the most memory that one took."""
    on_card = setting.device == "cuda"
    for _ in range(2):  # the optimizer's state, and whatever is compiled
        candidate.step()
    if on_card:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    seconds = clock_of(setting)
    times = [seconds(candidate.step) for _ in range(steps)]
    middle = statistics.median(times)
    peak = torch.cuda.max_memory_allocated() if on_card else None
    return {"seconds": middle, "least": min(times), "tokens_per_second": setting.tokens / middle, "peak_bytes": peak}


def compiled(build: Build, backend: str) -> Build:
    def made(base: Base) -> Candidate:
        candidate = build(base)
        candidate.model.compile(backend=backend)
        return candidate

    return made


@contextmanager
def bound(elements: int) -> Iterator[None]:
    """Inputs of so many elements and fewer are computed in torch's own operations, whatever the device."""
    names = ("_MOST", "_MOST_HALF", "_MOST_AWAY")
    usual = {name: getattr(paths, name) for name in names}
    try:
        for name in names:
            setattr(paths, name, elements)
        yield
    finally:
        for name, value in usual.items():
            setattr(paths, name, value)


def measure_all(
    sheet: Sheet, cases: tuple[Case, ...], device: Any, backend: str | None, tokens: tuple[int, ...], steps: int
) -> None:
    """Every row, model by model: as they are, at small inputs, compiled.

    Args:
        backend: of ``torch.compile``; None: nothing is compiled.
        tokens: of the small inputs.
        steps: that are timed of each.
    """
    dtype: Any = "bfloat16" if device == "cuda" else "float32"
    for case in cases:
        setting = Setting(device=device, dtype=dtype, batch=case.batch, length=case.length)
        names = [f"{case.name}/{name}" for name in variants(case.r)]
        if all(name in sheet.rows and "error" not in sheet.rows[name] for name in names):
            continue
        base = make_base(case.name, setting)
        for name, build in variants(case.r).items():
            sheet.add(f"{case.name}/{name}", case.name, lambda b=build, s=setting, m=base: one(b, m, s, steps))
        del base
    small = cases[-1]
    for count in tokens:
        setting = Setting(device=device, dtype=dtype, batch=1, length=count)
        base = make_base(small.name, setting)
        for way, elements in (("node", 0), ("operations", 1 << 40)):

            def few(setting: Setting = setting, base: Base = base, elements: int = elements) -> dict[str, Any]:
                with bound(elements):
                    return one(ours("lora", r=8, lora_alpha=16), base, setting, steps)

            sheet.add(f"{small.name}/{count} tokens/{way}", "small", few)
    for case in cases if backend else ():
        setting = Setting(device=device, dtype=dtype, batch=case.batch, length=case.length)
        base = make_base(case.name, setting)
        for name in COMPILED:
            build = compiled(variants(case.r)[name], backend or "")
            measure = lambda b=build, s=setting, m=base: one(b, m, s, FEW_STEPS)  # noqa: E731
            sheet.add(f"{case.name}/compiled {name}", f"{case.name} compiled", measure)
        del base


def one(build: Build, base: Base, setting: Setting, steps: int) -> dict[str, Any]:
    with repeatable():
        candidate = build(base)
    return measured(candidate, setting, steps)


def table(rows: dict[str, Any], cases: tuple[Case, ...]) -> str:
    """Rows as Markdown: speed and peak memory beside PEFT's LoRA of the same model."""
    lines = [
        "| model | method | tokens/s | of PEFT LoRA's | peak memory | of PEFT LoRA's |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        model, _, method = name.partition("/")
        reference = rows.get(f"{model}/peft-lora", {})
        if "error" in row or "seconds" not in row:
            lines.append(f"| {model} | {method} | {row.get('error', '')} | | | |")
            continue
        same = reference.get("tokens_per_second") if "tokens/" not in method else None
        speed = f"{row['tokens_per_second'] / same:.2f}" if same else "-"
        peak = row.get("peak_bytes")
        share = f"{peak / reference['peak_bytes']:.2f}" if same and peak and reference.get("peak_bytes") else "-"
        memory = "-" if peak is None else f"{peak / 2**30:.2f} GiB"
        lines.append(f"| {model} | {method} | {row['tokens_per_second']:,.0f} | {speed} | {memory} | {share} |")
    sizes = "; ".join(f"{case.name} {case.batch} x {case.length} tokens, r = {case.r}" for case in cases)
    return "\n".join([f"{sizes}; all linear layers.", "", *lines])


def write_page(page: Path, text: str) -> None:
    """Puts a text between the page's marks.

    Raises:
        TapertuneError: there is no such page, or it has no marks.
    """
    start, end = MARK
    old = page.read_text(encoding="utf-8") if page.is_file() else ""
    if start not in old or end not in old:
        raise TapertuneError(f"{page} has no {start} and {end} to write between")
    before, after = old.partition(start)[0], old.partition(end)[2]
    write_text(page, f"{before}{start}\n\n{text}\n\n{end}{after}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the result file")
    parser.add_argument("--minutes", type=float, default=9.5, help="after which no row begins")
    parser.add_argument("--toy", action="store_true", help="toy sizes, on the processor where there is no card")
    parser.add_argument("--compile", choices=("inductor", "eager", "none"), default="inductor", help="torch.compile's")
    parser.add_argument("--write-docs", type=Path, help="a page with marks to write the table between")
    given = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not given.toy:
        print("error: torch sees no CUDA device here; --toy measures toy sizes on the processor", file=sys.stderr)
        return 2
    if device == "cpu":
        torch.set_num_threads(1)
    cases, tokens = (TOYS, (4,)) if given.toy else (CASES, TOKENS)
    facts = {"schema_version": VERSION, "toy": given.toy, "source": source_digest(), "versions": versions(),
             "hardware": hardware().model_dump(), "commit": git_state().commit}  # fmt: skip
    backend = None if given.compile == "none" else given.compile
    try:
        sheet = Sheet(given.out, facts, given.minutes)
        measure_all(sheet, cases, device, backend, tokens, TOY_STEPS if given.toy else STEPS)
        text = f"{hardware().gpu or hardware().cpu}, commit {git_state().commit}. {table(sheet.rows, cases)}"
        print(text)
        if given.write_docs is not None and not given.toy:
            write_page(given.write_docs, text)
    except TapertuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
