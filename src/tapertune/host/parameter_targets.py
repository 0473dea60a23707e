"""Which parameters ``target_parameters`` names, and which are adapted where nothing is named: stacked experts."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists
from torch import nn

from ..errors import TapertuneError, bad_value, nearest
from .config import ChainConfig
from .held_matrix import HeldMatrix
from .module_names import layer_index
from .parameter_layer import ParameterLayer, held_matrices
from .paths import endings, ends, owner_of
from .stacks import stacked_parameters, without_wrappers


def default_parameters(model: nn.Module, config: ChainConfig) -> list[str] | None:
    """Endings of the paths of stacked experts whose layout transformers declares; None where there are none.

    Args:
        model: the base model.
        config: says what is excluded.
    """
    paths = [
        path
        for path in stacked_parameters(model)
        if hasattr(_home(model, path), "is_transposed") and not is_excluded(config, without_wrappers(path))
    ]
    return sorted({".".join(without_wrappers(path).split(".")[-2:]) for path in paths}) or None


def is_excluded(config: ChainConfig, path: str) -> bool:
    """Whether a config excludes a parameter, or has its module trained whole."""
    probe = copy.copy(config)
    probe.target_modules = set()
    names = (path, owner_of(path))
    return any(isinstance(check_target_module_exists(probe, name), _ExcludedModule) for name in names if name)


def in_layers(config: ChainConfig, path: str) -> bool:
    """Whether a path is in one of the layers that a config adapts, or in none."""
    layers, index = config.layers_to_transform, layer_index(path)
    return layers is None or index is None or index in ({layers} if isinstance(layers, int) else set(layers))


def target_parameters(model: nn.Module, config: ChainConfig) -> dict[str, nn.Module]:
    """The parameters that a config names, by path in the base model, and the modules that have them.

    Raises:
        TapertuneError: a name is that of no parameter (the nearest is suggested), or of one that is no matrix and no
            stack of matrices, or that belongs to the model itself or to a module that is adapted already.
    """
    names = sorted(config.target_parameters or ())
    known = {without_wrappers(path): path for path, _ in model.named_parameters()}
    found: dict[str, nn.Module] = {}
    for name in names:
        hits = [path for path in known if ends(path, name)]
        if not hits:
            raise _no_parameter(name, known, model)
        for path in hits:
            if is_excluded(config, path) or not in_layers(config, path):
                continue
            _check(name, path, model, known[path])
            found[path] = _home(model, known[path])
    return {path: found[path] for path in known if path in found}


def target_matrices(model: nn.Module, config: ChainConfig) -> dict[str, HeldMatrix]:
    """The matrices of the parameters that a config names, by path."""
    return {
        name: matrix
        for path, home in target_parameters(model, config).items()
        for name, matrix in held_matrices(home, path).items()
    }


def in_order(paths: Iterable[str], model: nn.Module) -> list[str]:
    """Paths of modules and of held matrices, in the model's order."""
    places = {without_wrappers(name): place for place, (name, _) in enumerate(model.named_modules())}
    return sorted(
        paths, key=lambda path: places.get(path, places.get(owner_of(path), places.get(owner_of(owner_of(path)), 0)))
    )


def replace_with_layer(model: nn.Module, path: str) -> ParameterLayer:
    """The layer around the module that has a parameter, put in its place where there is none yet."""
    place, _, name = owner_of(path).rpartition(".")
    parent = model.get_submodule(place)
    module = getattr(parent, name)
    if isinstance(module, ParameterLayer):
        return module
    layer = ParameterLayer(module)
    layer.train(module.training)
    setattr(parent, name, layer)
    return layer


def _check(name: str, path: str, model: nn.Module, place: str) -> None:
    parameter = model.get_parameter(place)
    if parameter.dim() not in (2, 3):
        raise bad_value(
            "target_parameters", name, f"a matrix or a stack of matrices; {path} has {parameter.dim()} axes"
        )
    if not owner_of(path):
        raise bad_value(
            "target_parameters", name, "a parameter of a module inside of the model, not of the model itself"
        )
    owner = model.get_submodule(owner_of(path))
    if hasattr(owner, "base_layer") and not isinstance(owner, ParameterLayer):
        raise bad_value(
            "target_parameters", name, f"a parameter of a module that is not adapted itself; {owner_of(path)} is"
        )


def _no_parameter(name: str, known: Iterable[str], model: nn.Module) -> TapertuneError:
    stacks = [without_wrappers(path) for path in stacked_parameters(model)]
    guess = nearest(name, endings(stacks)) or nearest(name, endings(known))
    hint = f": did you mean {guess!r}?" if guess else "."
    leaves = sorted({".".join(path.split(".")[-2:]) for path in stacks})
    allowed = f" Stacked here: {', '.join(leaves)}" if leaves else " No parameter here is a stack of matrices"
    return TapertuneError(f"target_parameters: no parameter is called {name!r}{hint}{allowed}")


def _home(model: nn.Module, path: str) -> nn.Module:
    return model.get_submodule(owner_of(path))
