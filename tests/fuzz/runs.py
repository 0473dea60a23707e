"""Kinds of what runs leave: folders that reports draw, checkpoints that runs go on from, the store of a grid."""

from __future__ import annotations

import gzip
import json
import random
import struct
from pathlib import Path
from typing import Any

import torch
from compare.records import record_for
from compare.tiny_grid import comparison_of
from peft import get_peft_model
from tiny import mlp
from train.tiny_run import raw_settings, write_data, write_model

import tapertune
from tapertune.compare.report import report_sections
from tapertune.compare.store import Store
from tapertune.events import EventLog
from tapertune.integrations.manifest import MANIFEST
from tapertune.integrations.state import STATE_FILE, restore, save_state
from tapertune.methods import METHODS
from tapertune.report import load_runs, render_html, render_markdown
from tapertune.runfile.settings import RunSettings, check_settings
from tapertune.train.run_folder import check_resume
from tapertune.train.runner import run

from .files import FolderKind, SeveralFolders, plain
from .harness import Damage, Outcome
from .mutate import Change, as_text, change_bytes, change_json

STEPS = 8


def write_run(root: Path, method: str) -> RunSettings:
    """A run of a tiny model in ``root/METHOD``, with two checkpoints."""
    for name, write in (("model", write_model), ("data", write_data)):
        if not (root / name).exists():
            write(root / name)
    raw = raw_settings(root, method, output_dir=str(root / method), training__max_steps=STEPS)
    raw.pop("plan", None)
    settings = check_settings(raw)
    run(check_settings(raw))
    return settings


class Report(SeveralFolders):
    """Folders of runs that froze, pruned, and did neither."""

    name = "report"

    def __init__(self, root: Path) -> None:
        folder = root / self.name
        self.names = ("aflora", "adalora", "lora")
        for method in self.names:
            write_run(folder, method)
        kept = [folder / method / file for method in self.names for file in ("run.json", "events.jsonl")]
        super().__init__(folder, kept)

    def damage_file(self, path: Path, rng: random.Random) -> Damage:
        if path.suffix == ".json" or rng.random() < 0.3:
            return super().damage_file(path, rng)
        lines = self.contents[path].decode().splitlines()
        number = rng.choice([0, len(lines) - 1, rng.randrange(len(lines))])
        changed, change = change_json(json.loads(lines[number]), rng)
        lines[number] = as_text(changed, rng)
        path.write_text("\n".join(lines) + "\n")
        return Damage(f"{path.relative_to(self.folder)}, line {number + 1}: {change}", self.judges(path, change))

    def judges(self, path: Path, change: Change) -> bool:
        """Settings and versions are shown as they are, and of events only what is drawn is looked at."""
        free = change.path[0] in ("settings", "versions", "hardware", "git", "metrics", "plan", "rows", "learning_rate")
        seen = change.path[0] not in ("lr", "grad_norm", "threshold", "remaining")
        diverged = change.path == ("loss",) and isinstance(change.new, float)
        return change.is_wrong and not free and seen and not diverged

    def read(self) -> Outcome:
        runs = load_runs(self.folder / self.chosen)
        page, text = render_html(runs), render_markdown(runs)
        page.encode(), text.encode()
        return Outcome(text, said=bool(runs[0].faults))


class Checkpoints(FolderKind):
    """The folder of a run that was stopped, as ``--resume`` looks at it: a change in a checkpoint is seen."""

    name = "checkpoints"

    def __init__(self, root: Path) -> None:
        folder = root / self.name
        self.settings = write_run(folder, "aflora")
        self.run = folder / "aflora"
        record = json.loads((self.run / "run.json").read_text())
        (self.run / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
        super().__init__(folder, [self.run / "run.json", *(p for p in self.run.glob("checkpoint-*/*") if p.is_file())])

    def judges(self, path: Path, change: Change) -> bool:
        free = ("versions", "hardware", "git", "rows", "metrics", "settings")
        return change.is_wrong and (path.name != "run.json" or change.path[0] not in free)

    def damage_file(self, path: Path, rng: random.Random) -> Damage:
        damage = super().damage_file(path, rng)
        return Damage(damage.what, damage.wrong or path.name not in ("run.json", MANIFEST))

    def read(self) -> Outcome:
        checkpoint, notes = check_resume(self.run, self.settings)
        return Outcome(checkpoint and checkpoint.name, said=bool(notes))


class States(SeveralFolders):
    """A controller's state, as a plain loop goes on from it."""

    name = "controller state"

    def __init__(self, root: Path) -> None:
        folder = root / "states"
        for name in METHODS:
            (folder / name).mkdir(parents=True)
            model, controller = _attached(name, folder / name)
            optimizer = controller._optimizer
            for _ in range(STEPS // 2):
                model(torch.ones(2, 6)).square().sum().backward()
                optimizer.step()
                optimizer.zero_grad()
            save_state(controller, folder / name)
        super().__init__(folder)
        self.names = tuple(METHODS)

    def damage_file(self, path: Path, rng: random.Random) -> Damage:
        if path.name != STATE_FILE or rng.random() < 0.25:
            return super().damage_file(path, rng)
        content = self.contents[path]
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        changed, change = change_json(json.loads(header["__metadata__"]["tapertune"]), rng)
        header["__metadata__"]["tapertune"] = as_text(changed, rng)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
        return Damage(f"{path.relative_to(self.folder)}: {change}", change.is_wrong)

    def read(self) -> Outcome:
        _, controller = _attached(self.chosen, self.folder / self.chosen)
        restore(controller, self.folder / self.chosen)
        return Outcome(plain(controller.state_dict()))


def _attached(name: str, folder: Path) -> tuple[Any, Any]:
    targets = ["0", "2"]
    model = get_peft_model(mlp(), tapertune.make_config(name, target_modules=targets))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    events = EventLog(folder / "events.jsonl")
    controller = tapertune.attach(model, optimizer, total_steps=STEPS, events=events)
    controller._kept = optimizer
    return model, controller


class StoreFiles(FolderKind):
    """The store of a grid: its header, records, events and claims."""

    name = "store"

    def __init__(self, root: Path) -> None:
        work, folder = root / "grid", root / self.name
        write_model(work / "model"), write_data(work / "data")
        self.comparison = comparison_of(work, ("lora", "aflora"), seeds=[1, 2])
        store = Store(folder)
        store.prepare(self.comparison)
        settings = write_run(work, "aflora")
        events = Path(settings.output_dir, "events.jsonl").read_bytes()
        for row, score in (("lora", 0.7), ("aflora", 0.9)):
            low, high = self.comparison.points[row]
            made = [record_for(self.comparison, row, "sst2", low, 1, selection=score - 0.1, test=score - 0.1)]
            made += [
                record_for(self.comparison, row, "sst2", high, seed, selection=score, test=score) for seed in (1, 2)
            ]
            for record in made:
                store.write(record.model_dump(mode="json"), events if row == "aflora" else None)
        store.note_failure("0123", "lora", "why")
        (folder / "claims").mkdir()
        claim = {"host": "elsewhere", "pid": 1, "started": 1.0, "token": "x"}
        (folder / "claims" / "abcd.claim").write_text(json.dumps(claim))
        super().__init__(folder, [path for path in folder.rglob("*") if path.name != ".gitignore"])

    def damage_file(self, path: Path, rng: random.Random) -> Damage:
        if path.suffix != ".gz":
            return super().damage_file(path, rng)
        changed, what = change_bytes(gzip.decompress(self.contents[path]), rng)
        path.write_bytes(gzip.compress(changed, 1) if rng.random() < 0.5 else change_bytes(self.contents[path], rng)[0])
        return Damage(f"{path.relative_to(self.folder)}: {what}, packed")

    def judges(self, path: Path, change: Change) -> bool:
        free = ("settings", "changes", "method", "sizes", "data", "versions")
        if path.parent.name == "runs":
            return change.is_wrong and change.path[0] not in free
        return change.is_wrong and path.name == "store.json"

    def read(self) -> Outcome:
        store = Store(self.folder)
        store.claims.take("abcd")
        store.claims.release_all()
        header = store.check(self.comparison)
        title, sections = report_sections(self.comparison, store)
        shown = [(section.title, section.header, section.rows, section.notes) for section in sections]
        notes = " ".join(note for section in sections for note in section.notes)
        json.dumps(shown).encode()
        return Outcome((title, shown, header, len(sections[1].charts)), said="cannot be drawn" in notes)
