"""What ``target_modules`` names that cannot be adapted, and what it leaves out."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import Any

from peft.utils import INCLUDE_LINEAR_LAYERS_SHORTHAND
from torch import nn

from ..errors import TapertuneError, nearest
from .kinds import SUPPORTED, adaptable, is_linear
from .layer import ChainLayer
from .parameter_layer import ParameterLayer
from .paths import endings as _endings
from .paths import ends as _ends
from .paths import owner_of as _owner
from .stacks import stacked_parameters, without_wrappers

Matches = Callable[[str], Any]
"""Of a path, whether a config takes it; falsy where it does not, or where it excludes it."""


def is_all_linear(targets: object) -> bool:
    """Whether ``target_modules`` is PEFT's word for every linear layer but the output."""
    return isinstance(targets, str) and targets.lower() == INCLUDE_LINEAR_LAYERS_SHORTHAND


def check_names(targets: Iterable[str], model: nn.Module) -> None:
    """
    Raises:
        TapertuneError: one of the names is that of no module; the nearest is suggested, and parameters are told apart.
    """
    known = _endings(name for name, _ in model.named_modules() if name)
    for target in sorted(set(targets) - known):
        parameters = dict(model.named_parameters())
        hit = next((name for name in parameters if _ends(name, target)), None)
        if hit is not None:
            raise _is_parameter(repr(target), hit, model)
        stacks = stacked_parameters(model)
        known = [path for path, module in model.named_modules() if path and adaptable(module)]
        guess = nearest(target, _endings(known) | _endings(stacks))
        hint = "" if guess is None else f"; did you mean {guess!r}?"
        if guess is None and stacks:
            guess = next(iter(stacks)).rpartition(".")[2]
        stack = next((name for name in stacks if guess is not None and _ends(name, guess)), None)
        if stack is not None:
            hint = f"; the nearest is {guess!r}, {_description(stack, model)}: name it in target_parameters"
        raise TapertuneError(f"target_modules: no module is called {target!r}{hint}")


def check_pattern(pattern: str, matches: Matches, model: nn.Module) -> None:
    """
    Raises:
        TapertuneError: a regular expression matches parameters and no module.
    """
    if not any(matches(name) for name, _ in model.named_modules() if name):
        hit = next((name for name, _ in model.named_parameters() if matches(name)), None)
        if hit is not None:
            raise _is_parameter(repr(pattern), hit, model)


def check_called(modules: Iterable[str], model: nn.Module) -> None:
    """
    Args:
        modules: paths of the linear modules that are to be adapted.

    Raises:
        TapertuneError: what one of them is part of reads its weight rather than call it, so that an adapter beside it
            would count for nothing.
    """
    for path in modules:
        parent, _, name = path.rpartition(".")
        kind = type(model.get_submodule(parent))
        if in_attention(model, path):
            reason = "nn.MultiheadAttention reads its weight rather than call it; name the attention itself"
        elif hasattr(model.get_submodule(parent), "A_log") and _reads(kind, name) and _has_kernels(name):
            reason = f"it is incompatible with Mamba-based models, as the kernels of {kind.__name__} read its weight"
        elif not hasattr(model.get_submodule(parent), "A_log") and _only_reads(kind, name):
            reason = f"{kind.__name__} reads its weight rather than call it"
        else:
            continue
        raise TapertuneError(
            f"target_modules: {path!r} cannot be adapted: {reason}. Leave it out (exclude_modules=[{name!r}])"
        )


def in_attention(model: nn.Module, path: str) -> bool:
    """Whether a module is the output projection of torch's attention, which is never called."""
    parent, _, name = path.rpartition(".")
    return name == "out_proj" and isinstance(model.get_submodule(parent), nn.MultiheadAttention)


def warn_of_rest(
    targets: Iterable[str] | str | None, model: nn.Module, matches: Matches, excluded: Callable[[str], bool]
) -> None:
    """Names what has matrices of its own and is left out: stacked experts, and torch's attention.

    Args:
        targets: ``target_modules`` as it was given. 'all-linear' and the defaults (None) mean everything; of a list or
            a pattern, what it names counts.
        matches: of a path, whether the config takes it.
        excluded: of a path, whether the config excludes it, or has the module trained whole.
    """
    rest = {name: p for name, p in stacked_parameters(model).items() if not _is_adapted(name, model)}
    if targets is None or is_all_linear(targets):
        rest |= _attention_matrices(model)
    else:
        names = [] if isinstance(targets, str) else targets
        rest = {n: p for n, p in rest.items() if matches(n) or any(_is_in(target, n) for target in names)}
    rest = {name: p for name, p in rest.items() if not (excluded(name) or excluded(_owner(name)))}
    if not rest:
        return
    layers = [layer for layer in model.modules() if isinstance(layer, ChainLayer)]
    added = {id(p) for layer in layers for n, p in layer.named_parameters() if not n.startswith("base_layer.")}
    total = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in added)
    kinds: dict[str, dict[str, int]] = {}
    for name, parameter in rest.items():
        kind = kinds.setdefault(type(model.get_submodule(_owner(name))).__name__, {})
        leaf = name.rpartition(".")[2]
        kind[leaf] = kind.get(leaf, 0) + parameter.numel()
    parts = [f"{kind} ({', '.join(sizes)}; {_share(sum(sizes.values()), total)})" for kind, sizes in kinds.items()]
    what = repr(targets) if targets is None or isinstance(targets, str) else repr(sorted(targets))
    warnings.warn(
        f"target_modules {what}: not adapted, and so not trained: {'; '.join(parts)}. Matrices that are parameters of "
        "a module, as stacked experts are, are adapted where target_parameters names them",
        stacklevel=2,
    )


def unsupported(path: str, module: nn.Module) -> ValueError:
    """The error for a target that is a module of the wrong kind."""
    text = f"Target module {path!r} is a {type(module).__name__}, which is not supported. {SUPPORTED}"
    stacks = [name for name in stacked_parameters(module) if "." not in name]
    if stacks:
        text += f" Its weights are 3D parameters ({', '.join(stacks)}): name them in target_parameters."
    return ValueError(text)


def _attention_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    return {
        f"{path}.{name}" if path else name: parameter
        for path, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
        for name, parameter in [*module._parameters.items(), ("out_proj", module.out_proj.weight)]
        if isinstance(parameter, nn.Parameter) and parameter.dim() == 2
    }


def _linear(model: nn.Module) -> list[str]:
    """The paths that ``target_modules`` may name."""
    return [p for p, module in model.named_modules() if p and is_linear(module) and not in_attention(model, p)]


def _is_parameter(what: str, name: str, model: nn.Module) -> TapertuneError:
    allowed = sorted({path.rpartition(".")[2] for path in _linear(model)})
    return TapertuneError(
        f"target_modules: {what} is {_description(name, model)} ({name}), not a module: target_parameters names "
        f"parameters. Allowed: {', '.join(allowed)}"
    )


def _is_adapted(name: str, model: nn.Module) -> bool:
    """Whether a parameter of the model has an adapter."""
    layer = model.get_submodule(_owner(without_wrappers(name)))
    return isinstance(layer, ParameterLayer) and name.rpartition(".")[2] in layer.parameter_names


def _description(name: str, model: nn.Module) -> str:
    owner = type(model.get_submodule(_owner(name))).__name__
    return f"a {model.get_parameter(name).dim()}D parameter of {owner}"


@functools.cache
def _reads(kind: type[nn.Module], name: str) -> bool:
    try:
        return f"self.{name}.weight" in inspect.getsource(kind)
    except (OSError, TypeError):  # no source at hand
        return name in ("out_proj", "x_proj", "dt_proj", "conv1d")


@functools.cache
def _only_reads(kind: type[nn.Module], name: str) -> bool:
    """Whether a module's forward reads the weight of a part of it and never calls that part."""
    if kind.__module__.startswith("torch.nn."):
        return False
    try:
        reads = f"self.{name}.weight" in inspect.getsource(kind.forward)
        return reads and f"self.{name}(" not in inspect.getsource(kind)
    except (OSError, TypeError):
        return False


@functools.cache
def _has_kernels(name: str) -> bool:
    """Whether Mamba's kernels may come to read a module's weight. The output projection is refused in any case, as by
    PEFT, so that an adapter made here can be used elsewhere, and so is the convolution, whose weight is read for each
    token that is generated."""
    return name in ("out_proj", "conv1d") or any(
        _is_installed(distribution) for distribution in ("mamba-ssm", "kernels")
    )


def _is_installed(distribution: str) -> bool:
    try:
        return bool(metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return False


def _is_in(target: str, name: str) -> bool:
    """Whether a parameter's name says that it has a matrix of a target's name in it, as ``gate_up_proj`` does."""
    leaves = [set(path.rpartition(".")[2].split("_")) for path in (target, name)]
    return leaves[0] <= leaves[1]


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.3g}% of the parameters"
