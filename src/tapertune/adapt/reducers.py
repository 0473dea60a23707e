"""Adapters under DistributedDataParallel: its reducer is built anew when factors freeze or lose ranks, so that what
trains no more is neither computed nor sent.

The wrapper stays the object that it is, as do the parameters: whoever holds them goes on with them. The reducer is made
as torch makes it for a wrapper that was pickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import TapertuneError
from .parameter import Handle

_NEEDED = ("_build_params_for_reducer", "_build_debug_param_to_name_mapping", "_ddp_init_helper", "_comm_hooks")
_BY_BUCKET = ("error_dict", "p_memory_dict", "q_memory_dict")  # what PowerSGD's state keeps
_FUNCTIONS: Any = distributed


class Reducers:
    """What decisions may do to parameters that several processes train.

    Args:
        handles: the adapter's factors by name.
        several: whether several processes train them, or hold them as shards.

    Attributes:
        several: the same.
    """

    def __init__(self, handles: Mapping[str, Handle], several: bool) -> None:
        self._handles, self.several = handles, several
        self._wrappers: list[DistributedDataParallel] = []
        self._silent: set[int] = set()  # wrappers in which nothing trains any more
        self._stale = False

    @property
    def complete(self) -> bool:
        """Whether the wrappers around all factors are known, as far as factors are in one."""
        inside = {id(p) for wrapper in self._wrappers for p in wrapper.module.parameters()}
        return not self.several or all(id(handle.parameter) in inside for handle in self._handles.values())

    @property
    def fixed(self) -> bool:
        """Whether parameters have to keep their flag and shape: shards, and reducers that are not known or that torch
        cannot build anew."""
        return self.several and not (self._wrappers and self.complete and all(map(can_rebuild, self._wrappers)))

    def add(self, wrapper: DistributedDataParallel, step: int, *, in_forward: bool = False) -> None:
        """A wrapper around factors, from now on; the same once.

        Args:
            wrapper: around some of them.
            step: the run's.
            in_forward: its forward pass has begun.
        """
        if self.several and not any(wrapper is known for known in self._wrappers):
            self._wrappers.append(wrapper)
            self.rebuild(step)
            if in_forward:
                wrapper.reducer.prepare_for_forward()

    def note(self) -> None:
        """Something has frozen, has been cut, or trains again."""
        self._stale = self.several

    def rebuild(self, step: int, *, alone: bool = False) -> None:
        """Builds reducers for what trains now, where something has changed. Each costs two small messages that are
        waited for, as often as a plan's schedule lets it decide.

        Args:
            step: the run's.
            alone: does not ask the other processes whether they have decided alike.

        Raises:
            TapertuneError: they have not.
        """
        if not self._stale or self.fixed:
            return
        self._stale = False
        for handle in self._handles.values():
            if handle.frozen:
                handle.parameter.requires_grad_(False)
        for wrapper in self._wrappers:
            if not alone:
                _check_alike(wrapper, step)
            self._rebuild(wrapper)

    def _rebuild(self, wrapper: DistributedDataParallel) -> None:
        trains = any(p.requires_grad for p in wrapper.module.parameters())
        if trains:
            rebuild(wrapper)
        if trains == (id(wrapper) in self._silent):  # its reducer would wait for gradients that never come
            wrapper.require_backward_grad_sync = trains
            self._silent ^= {id(wrapper)}


def can_rebuild(wrapper: Any) -> bool:
    """Whether the reducer can be replaced: torch is one that is known here, and no option holds on to parameters."""
    return (
        all(hasattr(wrapper, name) for name in _NEEDED)
        and getattr(wrapper, "mixed_precision", None) is None
        and not getattr(wrapper, "_use_python_reducer", False)
        and not getattr(wrapper, "_delay_all_reduce_params", ())
        and not wrapper._join_config.enable
    )


def rebuild(wrapper: Any) -> None:
    """Gives a wrapper a reducer for the parameters that train now, with the options and hooks of the one before."""
    built_in = _built_in_hook(wrapper)
    wrapper._remove_autograd_hooks()
    parameters, sparse = wrapper._build_params_for_reducer()
    names = wrapper._build_debug_param_to_name_mapping(parameters)
    wrapper._ddp_init_helper(parameters, sparse, names, wrapper.static_graph)
    wrapper._has_rebuilt_buckets = False
    if wrapper.static_graph:
        wrapper._static_graph_delay_allreduce_enqueued = False
        wrapper.reducer._set_static_graph()
        wrapper.logger._set_static_graph()
    if built_in is not None:
        wrapper._register_builtin_comm_hook(built_in)
    for hook, state in wrapper._comm_hooks:
        for name in _BY_BUCKET:
            getattr(state, name, {}).clear()
        wrapper.logger._set_comm_hook_name(hook.__qualname__)
        _FUNCTIONS._register_comm_hook(wrapper.reducer, state, hook)


def _built_in_hook(wrapper: Any) -> Any | None:
    """One of torch's hooks in C++, which wrappers do not keep; None for none."""
    name = str(wrapper._get_ddp_logging_data().get("comm_hook", "")).rpartition(".")[2]
    kinds = getattr(distributed, "BuiltinCommHookType", None)
    return None if wrapper._comm_hooks or not name else getattr(kinds, name, None)


def _check_alike(wrapper: Any, step: int) -> None:
    """Buckets of other sizes would wait for each other for ever."""
    trains = [(name, tuple(p.shape)) for name, p in wrapper.module.named_parameters() if p.requires_grad]
    digest = int.from_bytes(hashlib.sha256(repr(trains).encode()).digest()[:7], "big")
    extremes = torch.tensor([digest, -digest], device=wrapper.device)
    distributed.all_reduce(extremes, distributed.ReduceOp.MAX, group=wrapper.process_group)
    largest, smallest = extremes.tolist()
    if largest != -smallest:
        raise TapertuneError(
            f"by step {step} the processes have frozen or pruned different factors: their gradients differ, as where "
            "no_sync() leaves out the reduction before an optimizer step, or their plans or weights do"
        )


def wrappers_in(model: nn.Module) -> list[DistributedDataParallel]:
    """The wrappers that a model is in or has inside."""
    return [module for module in model.modules() if isinstance(module, DistributedDataParallel)]
