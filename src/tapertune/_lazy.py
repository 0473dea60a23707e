"""Registers the methods with PEFT at the moment PEFT is imported, so that ``import tapertune`` stays light.

Looking for PEFT is not importing it: ``importlib.util.find_spec("peft")``, which libraries call to see what is
installed, finds a spec that registers when it is loaded, and changes nothing else.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

AUTOLOAD = "TAPERTUNE_AUTOLOAD"
CALLBACK = "TAPERTUNE_CALLBACK"


def register_with_peft() -> None:
    """Registers now if PEFT is imported already, else right after it has been."""
    module = sys.modules.get("peft")
    spec = getattr(module, "__spec__", None)
    if module is None:
        if not any(isinstance(finder, _AfterPeft) for finder in sys.meta_path):
            sys.meta_path.insert(0, _AfterPeft())
    elif getattr(spec, "_initializing", False):
        assert spec is not None
        _register_at_the_end_of(spec)
    else:
        _register()


def _register() -> None:
    """Importing the host registers. With ``TAPERTUNE_CALLBACK=1`` every Trainer gets the callback that it lacks; that
    has to wait, since this may run in the middle of other imports."""
    importlib.import_module("tapertune.host")
    if os.environ.get(CALLBACK, "").strip().lower() in ("1", "on", "true", "yes"):
        importlib.import_module("tapertune.adapt.missing_controller").at_first_adapter(_give_callbacks)


def _give_callbacks() -> None:
    importlib.import_module("tapertune.integrations.every_trainer").add_to_every_trainer()


def find_for_others(fullname: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
    """PEFT's spec, for a program that may never use tapertune: a registration that fails is warned of."""
    for finder in sys.meta_path:
        if isinstance(finder, _AfterPeft):
            if not getattr(finder.asked, "now", False):  # else it is what asks, in a program that imports tapertune
                finder.asked_for = False
            return finder.find_spec(fullname, path, target)
    return None  # it is imported, or being imported, and registering is under way


class _AfterPeft(MetaPathFinder):
    """Finds ``peft`` as the other finders do, and adds a last step to its loading.

    Attributes:
        asked_for: whether the program imports tapertune itself, and so has to hear of what fails.
    """

    def __init__(self) -> None:
        self.asked = threading.local()
        self.asked_for = True

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "peft" or getattr(
            self.asked, "now", False
        ):  # another finder that asks all finders, as this does
            return None
        self.asked.now = True
        try:
            spec = self._of_the_others(fullname, path, target)
        finally:
            self.asked.now = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader, self)
        return spec

    def _of_the_others(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec = find(fullname, path, target) if find is not None and finder is not self else None
            if spec is not None:
                return spec
        return None


class _Registering(Loader):
    """A loader that registers after the module has run; for whoever asks it anything else it is the other loader."""

    def __init__(self, loader: Loader, finder: _AfterPeft) -> None:
        self.loader, self.finder = loader, finder

    def __getattr__(self, name: str) -> Any:
        if name in ("loader", "finder"):  # of a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _same, (self.loader,)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader  # resources and submodules see PEFT's own loader
        self.loader.exec_module(module)
        self._register()
        if self.finder in sys.meta_path:  # only now: an import that fails may be tried again
            sys.meta_path.remove(self.finder)

    def _register(self) -> None:
        try:
            _register()
        except Exception as error:
            if self.finder.asked_for:
                raise
            reason = " ".join(str(error).split())
            warnings.warn(
                f"tapertune's adapters cannot be used here: {reason}. {AUTOLOAD}=0 keeps tapertune from being loaded "
                "with peft",
                stacklevel=2,
            )


def _same(loader: Loader) -> Loader:
    return loader


class _Unfinished(ModuleSpec):
    """The spec of a module that is being imported, which hears from the import system that it is done."""

    @property
    def _initializing(self) -> bool:
        return self.__dict__["_initializing"]

    @_initializing.setter
    def _initializing(self, value: bool) -> None:
        self.__dict__["_initializing"] = value
        if not value:
            object.__setattr__(self, "__class__", ModuleSpec)
            register_with_peft()


def _register_at_the_end_of(spec: ModuleSpec) -> None:
    """Registers when the import that has this spec ends: another thread's, or one that this import is a part of."""
    spec.__class__ = _Unfinished
    if not spec.__dict__["_initializing"]:  # it ended between the question and the answer
        spec.__class__ = ModuleSpec
        register_with_peft()
