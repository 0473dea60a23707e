"""Tries what stops or spoils a run, on every method by every entrance and on PEFT's LoRA and AdaLoRA under Trainer, and
writes what came of it into docs/reliability.md.

    OMP_NUM_THREADS=1 python benchmarks/reliability.py run [--kills 40] [--seed 1] [--only FAULT] [--skip FAULT]
    python benchmarks/reliability.py page

After each fault the same run is begun again, as its user would, and what it leaves is compared with a run that nothing
happened to: weights, the controller's state, optimizer, events, logs, bit for bit. Models have one layer, so that an
attempt costs half a second; each is a copy of this process.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
RESULTS = ROOT / "benchmarks" / "results" / "reliability.json"
sys.path.insert(0, str(ROOT / "tests"))

from entrances import ENTRANCES, USUAL, Variant, differences, of_peft, result  # noqa: E402
from kills import Moment, Operation, Outcome, attempt, points, templates_kept  # noqa: E402
from train.tiny_run import write_data, write_model  # noqa: E402

from tapertune.files import write_text  # noqa: E402
from tapertune.integrations.manifest import checkpoints  # noqa: E402
from tapertune.methods import METHODS  # noqa: E402

SAME, LINE, FAILED, CHANGED = "the same run", "refused in one line", "ended in an error", "another run, unsaid"
_ONE_LINE = ("TapertuneError", "Diverged", "Terminated", "FileNotFoundError: the run's folder")
PEFT = {"PEFT LoRA": "lora", "PEFT AdaLoRA": "adalora"}
TWO = replace(USUAL, keep=2)


@dataclass
class Tried:
    """What came of a fault in one way of training.

    Attributes:
        fault: its name.
        entrance: the way.
        method: the method.
        tries: how often.
        outcomes: how many ended in which way.
        says: the last line of what the user saw where the run stopped or was refused.
    """

    fault: str
    entrance: str
    method: str
    tries: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    says: list[str] = field(default_factory=list)

    def add(self, outcome: str, said: str = "") -> None:
        self.outcomes[outcome] += 1
        if said and said not in self.says[:3]:
            self.says.append(said)


@dataclass(frozen=True, kw_only=True)
class Way:
    """A method by an entrance, in a folder of its own."""

    entrance: str
    method: str
    folder: Path

    def begin(self, variant: Variant = USUAL) -> Callable[[], Any]:
        begin = of_peft if self.entrance in PEFT else ENTRANCES[self.entrance]
        return begin(self.method, self.folder, variant)

    def run(self, variant: Variant = USUAL, place: Operation | Moment | None = None) -> Outcome:
        return attempt(self.begin(variant), self.folder, place)

    def whole(self, variant: Variant = USUAL) -> tuple[dict[str, Any], Outcome]:
        """What a run leaves that nothing happened to."""
        outcome = self.run(variant)
        assert outcome.code == 0, outcome.output
        found = result(self.folder)
        self.clear()
        return found, outcome

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def judge(self, outcome: Outcome, expected: dict[str, Any]) -> str:
        """In which way a process has ended that nobody killed."""
        if outcome.code:
            return LINE if last_line(outcome, self.folder).startswith(_ONE_LINE) else FAILED
        return CHANGED if any(differences(expected, result(self.folder))) else SAME


def last_line(outcome: Outcome, folder: Path) -> str:
    """Of an error: its name and message."""
    lines = [line for line in outcome.output.splitlines() if line.strip() and not line.startswith((" ", "\t"))]
    text = lines[-1].replace(str(folder), "runs/x") if lines else ""
    return re.sub(r"^(?:\w+\.)+(\w+)", r"\1", text)[:300]


# ---- faults ----------------------------------------------------------------------------------------------------------


def kills(way: Way, tried: Tried, options: argparse.Namespace) -> None:
    """At most five in a run, at every operation of a save in turn and at moments."""
    expected, whole = way.whole()
    plan = points(options.seed, whole)
    while tried.tries < options.kills:
        way.clear()
        for _ in range(min(5, options.kills - tried.tries)):
            outcome = way.run(place=next(plan))
            if not outcome.killed:
                break
            tried.tries += 1
        else:
            outcome = way.run()
        verdict = way.judge(outcome, expected)
        tried.add(verdict, last_line(outcome, way.folder) if outcome.code else "")


def damage(way: Way, tried: Tried, options: argparse.Namespace) -> None:
    """Each file of the newest of two checkpoints: missing, cut to half, one byte of it changed."""
    expected, _ = way.whole(TWO)
    stopped = way.folder.with_name("stopped")
    assert way.run(TWO, Operation(3, 1)).killed
    way.folder.rename(stopped)
    newest = checkpoints(stopped)[-2 if (checkpoints(stopped)[-1].name == "checkpoint-6") else -1]
    names = sorted(p.name for p in newest.iterdir() if p.is_file() and p.name not in ("README.md", "training_args.bin"))
    ways: list[Callable[[Path], Any]] = [Path.unlink, lambda p: os.truncate(p, p.stat().st_size // 2), _flip]
    for number, name in enumerate(names):
        for act in ways if options.thorough else [ways[number % 3]]:
            shutil.copytree(stopped, way.folder)
            act(way.folder / newest.name / name)
            outcome = way.run(TWO)
            tried.tries += 1
            verdict = way.judge(outcome, expected)
            tried.add(verdict, last_line(outcome, way.folder) if outcome.code else "")
            way.clear()
    shutil.rmtree(stopped)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)


def changed(variant: Variant) -> Callable[[Way, Tried, argparse.Namespace], None]:
    """Goes on with one thing changed since the run was stopped."""

    def go_on(way: Way, tried: Tried, options: argparse.Namespace) -> None:
        expected, _ = way.whole()
        assert way.run(place=Operation(3, 1)).killed
        outcome = way.run(variant)
        tried.tries += 1
        verdict = way.judge(outcome, expected)
        tried.add(verdict, last_line(outcome, way.folder) if outcome.code else "")

    return go_on


def nan(way: Way, tried: Tried, options: argparse.Namespace) -> None:
    """The gradients of the third backward pass are NaN; right is a run whose weights are finite at its end."""
    import torch

    body = way.begin()

    def poisoned() -> Any:
        inner, count = torch.Tensor.backward, iter(range(10**6))

        def backward(loss: Any, *arguments: Any, **keywords: Any) -> None:
            inner(loss * float("nan") if next(count) == 2 else loss, *arguments, **keywords)

        torch.Tensor.backward = backward  # type: ignore[method-assign]
        return body()

    outcome = attempt(poisoned, way.folder)
    tried.tries += 1
    if outcome.code:
        tried.add(way.judge(outcome, {}), last_line(outcome, way.folder))
    else:
        tried.add(SAME if _finite(checkpoints(way.folder)[-1]) else CHANGED)


def _finite(checkpoint: Path) -> bool:
    import torch
    from safetensors.torch import load_file

    return all(bool(torch.isfinite(t).all()) for t in load_file(checkpoint / "adapter_model.safetensors").values())


def stopped_by(act: Callable[[Path], Callable[[], None]]) -> Callable[[Way, Tried, argparse.Namespace], None]:
    """Something happens during the second save; then the run is begun again."""

    def stop(way: Way, tried: Tried, options: argparse.Namespace) -> None:
        expected, whole = way.whole()
        for number in (1, max(whole.operations) // 2, max(whole.operations) - 2):
            way.clear()
            first = way.run(place=Operation(2, number, act(way.folder)))
            tried.tries += 1
            said = last_line(first, way.folder) if first.code > 0 else ""
            again = first if first.code == 0 else way.run()
            verdict = way.judge(again, expected)
            if first.code > 0 and verdict in (LINE, FAILED):
                said = last_line(again, way.folder)
            tried.add(verdict, said)

    return stop


def _signal(number: int) -> Callable[[Path], Callable[[], None]]:
    return lambda folder: lambda: os.kill(os.getpid(), number)


def _no_room(folder: Path) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))


FAULTS: dict[str, Callable[[Way, Tried, argparse.Namespace], None]] = {
    "`kill -9` at every operation of a save and at random moments, up to five in a run": kills,
    "NaN in the gradients of one step": nan,
    "one training row changed before a resume": changed(replace(USUAL, first=1)),
    "one weight of the base model changed": changed(replace(USUAL, weight=0.5)),
    "another learning rate": changed(replace(USUAL, learning_rate=2e-2)),
    "another seed": changed(replace(USUAL, seed=4)),
    "another batch size": changed(replace(USUAL, batch=2)),
    "another number of steps": changed(replace(USUAL, steps=8)),
    "SIGTERM during a save": stopped_by(_signal(signal.SIGTERM)),
    "Ctrl-C during a save": stopped_by(_signal(signal.SIGINT)),
    "no room for a file of a checkpoint": stopped_by(_no_room),
    "a file of the newest checkpoint missing, cut short or changed": damage,
}
_NOT_SEEN_IN_A_LOOP = ("one training row", "one weight", "another learning", "another seed", "another batch")


# ---- running and showing ---------------------------------------------------------------------------------------------


def ways(folder: Path, methods: Sequence[str]) -> Iterator[Way]:
    for entrance in ENTRANCES:
        for method in methods:
            yield Way(entrance=entrance, method=method, folder=folder / "run")
    for entrance, method in PEFT.items():
        yield Way(entrance=entrance, method=method, folder=folder / "run")


def _records() -> list[dict[str, Any]]:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []


def _record(tried: dict[str, Any]) -> None:
    """Adds one to what is in the file, to which another process may have written."""
    write_text(RESULTS, json.dumps([*_records(), tried], indent=1) + "\n")


def run_all(options: argparse.Namespace) -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as top, templates_kept():
        folder = Path(top)
        write_model(folder / "model", width=8, layers=1)
        write_data(folder / "data", rows=16)
        for way in ways(folder, ["lora"]):  # so that copies have all imported
            way.begin()()
            way.clear()
        for fault, act in FAULTS.items():
            if options.only not in fault or (options.skip and options.skip in fault):
                continue
            for way in ways(folder, options.methods.split(",")):
                key = (fault, way.entrance, way.method)
                in_loop = way.entrance == "plain loop" and fault.startswith(_NOT_SEEN_IN_A_LOOP)
                drawn = {r["seed"] for r in _records() if (r["fault"], r["entrance"], r["method"]) == key}
                if in_loop or (options.seed in drawn if act is kills else drawn):
                    continue
                tried = Tried(*key)
                way.clear()
                act(way, tried, options)
                way.clear()
                _record({**vars(tried), "outcomes": dict(tried.outcomes), "seed": options.seed})
                print(*key, tried.tries, dict(tried.outcomes), tried.says[:1], flush=True)


def page() -> None:
    """Writes the table into the page, between its marks."""
    records = _records()
    lines = ["| what happens | to | tried | what came of it | what the user sees |", "|---|---|---|---|---|"]
    for fault in FAULTS:
        for entrance in [*ENTRANCES, *PEFT]:
            mine = [r for r in records if r["fault"] == fault and r["entrance"] == entrance]
            if not mine:
                continue
            outcomes: Counter[str] = sum((Counter(r["outcomes"]) for r in mine), Counter())
            methods = len({r["method"] for r in mine})
            who = entrance if entrance in PEFT else f"tapertune, {entrance} ({methods} methods)"
            came = ", ".join(f"{text} {count}" for text, count in outcomes.most_common())
            said = next((line for r in mine for line in r["says"]), "")
            shown = f"`{said[:150].strip().replace('|', '/')}`" if said else ""
            lines.append(f"| {fault} | {who} | {sum(r['tries'] for r in mine)} | {came} | {shown} |")
    between = re.compile(r"(?<=<!-- faults:start -->\n).*?(?=<!-- faults:end -->)", re.DOTALL)
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(between.sub(lambda _: "\n" + "\n".join(lines) + "\n\n", text), encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="try what is not recorded yet")
    run.add_argument("--kills", type=int, default=40, help="for each method and entrance")
    run.add_argument("--seed", type=int, default=1, help="of where and when to kill: another one adds to what is there")
    run.add_argument("--methods", default=",".join(METHODS), help="with commas between")
    run.add_argument("--only", default="", help="a part of a fault's name")
    run.add_argument("--skip", default="", help="a part of the name of faults to leave out")
    run.add_argument("--thorough", action="store_true", help="damage each file in each way, rather than in one")
    commands.add_parser("page", help="write the table into docs/reliability.md")
    given = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    page() if given.command == "page" else run_all(given)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
