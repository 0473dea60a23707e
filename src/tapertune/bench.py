"""The former name of ``runfile``, ``cost``, ``train`` and ``benchmark``. For one release it leads to them.

``import tapertune.bench.settings`` gives the module ``tapertune.runfile.settings`` itself, which is imported only then.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# former=present, by room; or the one name for both
_ROOMS = {
    "runfile": "arguments blocks settings yamlfile recipes summary results=record machine=environment "
    "dropout=head_dropout",
    "cost": "flow=trace adapted=adapted_layers accounting=measured costs=estimated shapes",
    "train": "runner prepare trainer models evaluation finish quantized gguf sampling measure statistics __main__ "
    "folder=run_folder card=model_card plain=baseline_events display=progress processes=distributed "
    "sharding=distributed quiet=suppress_logging trained=trained_folder",
    "benchmark": "speed= speed.contestant=candidate speed.control=controller_time speed.counts=counts "
    "speed.guard=regression_check speed.models=base_models speed.naive=naive speed.ours=ours speed.peak=peak_memory "
    "speed.rivals=baselines speed.runner=job speed.schema=schema speed.setting=setting speed.subjects=variants "
    "speed.taper=full_run speed.timing=timing speed.show=show speed.show.comparison=show.comparison "
    "speed.show.figures=show.figures speed.show.markdown=show.markdown speed.show.page=show.page "
    "speed.show.terminal=show.terminal",
}
# what has another name or another module inside
_NAMES = {
    "recipes": "Recipe=cost.recipes:Recipe check_recipe=cost.recipes:check_recipe",
    "quantized": "weights=cost.weights:weights sizes=cost.weights:sizes",
    "quiet": "quiet=train.suppress_logging:suppress_logging",
    "plain": "PlainEvents=train.baseline_events:BaselineEvents",
    "trained": "Folder=train.trained_folder:TrainedFolder",
    "speed.contestant": "Contestant=benchmark.candidate:Candidate floor=benchmark.candidate:frozen_reference",
    "speed.guard": "GUARDED=benchmark.regression_check:CHECKED",
    "speed.rivals": "rival=benchmark.baselines:baseline rival_adalora=benchmark.baselines:baseline_adalora",
    "speed.runner": "Told=benchmark.job:Announce",
    "speed.schema": "Taper=benchmark.schema:FullRun",
    "speed.subjects": "Subject=benchmark.variants:Variant SUBJECTS=benchmark.variants:VARIANTS "
    "EVERY=benchmark.variants:ALL",
    "speed.taper": "TAPERS=benchmark.full_run:FULL_RUNS TaperRow=benchmark.full_run:FullRunRow "
    "taper=benchmark.full_run:full_run",
}


def _pairs(text: str) -> dict[str, str]:
    parts = (part.partition("=") for part in text.split())
    return {former: present if equals else former for former, equals, present in parts}


_PREFIX = "tapertune.bench."
_MODULES = {
    _PREFIX + former: f"tapertune.{room}.{present}".rstrip(".")
    for room, text in _ROOMS.items()
    for former, present in _pairs(text).items()
}


class _Former(MetaPathFinder, Loader):
    """Finds modules under their former names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in _MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(_MODULES[spec.name])
        for former, present in _pairs(_NAMES.get(spec.name.removeprefix(_PREFIX), "")).items():
            room, _, name = present.partition(":")
            setattr(module, former, getattr(import_module(f"tapertune.{room}"), name))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state  # it has run under its own name


warnings.warn(
    "tapertune.bench is now tapertune.runfile, cost, train and benchmark; it goes with the next release",
    DeprecationWarning,
    stacklevel=1 if __name__ == "__main__" else 2,
)
if __name__ == "__main__":
    sys.exit(import_module("tapertune.train.__main__").main())
__path__: list[str] = []  # so that modules can be looked for under this name
sys.meta_path.insert(0, _Former())
