"""One PEFT tuner for every chain."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

from accelerate import init_empty_weights
from peft.mapping_func import get_peft_model
from peft.tuners.tuners_utils import (
    BaseTuner,
    BaseTunerLayer,
    _ExcludedModule,
    _maybe_include_all_linear_layers,
)
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from ..errors import TapertuneError
from ..methods import Matrix, get_method
from .base_weight import find_ties
from .bnb_layout import keep_layout
from .config import ChainConfig
from .coverage import coverage_of
from .fast_path import leave_fast_path, rejoin_fast_path
from .kinds import adaptable, layer_class_for, paths_of
from .layer import ChainLayer, layer_class
from .mixed_batch import rows_by_adapter
from .module_names import TARGETS, layer_index, top_layers
from .older_peft import get_quantization_kwargs
from .parameter_layer import ParameterLayer
from .parameter_targets import (
    default_parameters,
    in_layers,
    in_order,
    replace_with_layer,
    target_matrices,
    target_parameters,
)
from .patterns import check_patterns
from .ranks import check_memory, log, width_remark
from .renamed import rename_modules
from .search import AdaptedPart
from .shared_input import link
from .stacks import stacked_parameters
from .targets import check_called, check_names, check_pattern, in_attention, is_all_linear, unsupported, warn_of_rest
from .tokens import check_tokens
from .widths import widths_of


class ChainTuner(BaseTuner):
    """Puts a method's layers into a model. PEFT makes it; users call ``get_peft_model``."""

    tuner_layer_cls: type[ChainLayer]  # pyright: ignore[reportIncompatibleVariableOverride]
    target_module_mapping = TARGETS

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict) -> Any:
        kind = model_config.get("model_type")
        if peft_config.target_modules is None and kind not in self.target_module_mapping:
            if peft_config.target_parameters:
                peft_config.target_modules = set()
                return peft_config
            raise ValueError(
                f"Please specify `target_modules` in `peft_config`: no default is known for model type {kind!r} "
                "('all-linear' adapts every linear layer but the output)"
            )
        return super()._prepare_adapter_config(peft_config, model_config)

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        targets = peft_config.target_modules
        self._check_patterns(peft_config, model)
        if is_all_linear(targets):
            # PEFT spells it out only later; what cannot be adapted, PEFT's LoRA refuses or adapts in vain
            known = {name for name, module in model.named_modules() if isinstance(module, self.tuner_layer_cls)}
            _maybe_include_all_linear_layers(peft_config, model)
            # beside an adapter that is there already PEFT sees no linear layers
            linear = known | set(peft_config.target_modules)
            peft_config.target_modules = {name for name in linear if not in_attention(model, name)}
        elif isinstance(targets, str):
            check_pattern(targets, functools.partial(self._check_target_module_exists, peft_config), model)
        elif not self._is_default(targets, model):
            # a default list covers an architecture's variants; of a list that someone wrote, nothing is left out unsaid
            check_names(targets, model)
        if peft_config.train_layers is not None:
            paths = {n for n, _ in model.named_modules() if n}
            adapted = [name for name in paths if self._check_target_module_exists(peft_config, name)]
            top = top_layers(adapted, peft_config.train_layers)
            peft_config.layers_to_transform, peft_config.train_layers = top, None
            # of what is named by its whole path, as 'all-linear' names it, PEFT asks for no layer
            names = peft_config.target_modules
            peft_config.target_modules = {name for name in names if name not in paths or layer_index(name) in top}
        matches = {n: m for n, m in model.named_modules() if n and self._check_target_module_exists(peft_config, n)}
        modules = {name: module for name, module in matches.items() if adaptable(_base(module))}
        check_called(modules, model)
        bases = {name: _base(module) for name, module in modules.items()}
        stacks = target_matrices(model, peft_config)
        paths = [path for name, base in bases.items() for path in paths_of(name, base)]
        rename_modules(peft_config, in_order([*paths, *stacks], model) if stacks else paths)
        bases |= stacks
        check_memory(peft_config, bases)
        if remark := width_remark(peft_config, bases):
            log.warning(remark)
        check_tokens(peft_config, model)
        self._share(peft_config, bases.values())

    def _share(self, peft_config: Any, modules: Iterable[nn.Module]) -> None:
        """Sizes the projections that all modules share."""
        peft_config.projections.clear()
        chain = peft_config.row.chain(peft_config.settings())
        if any(isinstance(f, Matrix) and f.shared for f in chain) and not peft_config.shared_sizes:
            widths = [widths_of(_base(module)) for module in modules]
            for symbol, sides in zip(("d_in", "d_out"), zip(*widths, strict=True), strict=False):
                peft_config.shared_sizes[symbol] = max(sides)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        config: Any = self.peft_config[adapter_name]
        targets = config.target_modules
        if config.target_parameters is None and (targets is None or is_all_linear(targets)):
            config.target_parameters = default_parameters(model, config)
        if isinstance(targets, str):  # else, names of the architecture may be filled in first
            self._check_patterns(config, model)
        keep_layout(model, trains=not config.inference_mode)
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        link(model, self.tuner_layer_cls)
        find_ties(model, self.tuner_layer_cls)
        leave_fast_path(model)
        if not config.inference_mode:
            exists = functools.partial(self._check_target_module_exists, config)
            none = config.target_parameters is not None and not config.target_parameters
            stacks = stacked_parameters(model) if none else {}

            def excluded(name: str) -> bool:
                # of stacks none where the list of them is empty; of layers those that are to be adapted
                left = name in stacks or not in_layers(config, name)
                return left or isinstance(exists(name), _ExcludedModule)

            warn_of_rest(targets, model, exists, excluded)

    def _inject_parameters(
        self, peft_config: Any, model: nn.Module, adapter_name: str, low_cpu_mem_usage: bool = False
    ) -> list[str]:
        targets = target_parameters(model, peft_config)
        method = self.tuner_layer_cls.method.name
        with init_empty_weights() if low_cpu_mem_usage else nullcontext():
            for path in targets:
                layer = replace_with_layer(model, path)
                layer.adapt(method, path.rpartition(".")[2], path, adapter_name, peft_config)
                if adapter_name not in self.active_adapters:
                    layer.requires_grad_(False)
        return list(targets)

    def _check_patterns(self, config: Any, model: nn.Module) -> None:
        names = [name for name, _ in model.named_modules() if name]
        check_patterns(config, names, functools.partial(self._check_target_module_exists, config))

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        rejoin_fast_path(self.get_submodule("model"))

    def _check_merge_allowed(self) -> None:
        with warnings.catch_warnings():
            # a page on what merging does to tied weights, which here get a weight of their own (``base_weight``)
            warnings.filterwarnings("ignore", message="Model with `tie_word_embeddings=True`")
            super()._check_merge_allowed()

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        model: Any = super()._unload_and_optionally_merge(*args, **kwargs)
        rejoin_fast_path(model)
        return model

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """
        Raises:
            TapertuneError: always.
        """
        raise TapertuneError(
            f"add_weighted_adapter adds adapters of PEFT's LoRA, not of {self.tuner_layer_cls.method.name}: export "
            "each one to LoRA (tapertune export) and add those"
        )

    def update_and_allocate(self, *args: Any, **kwargs: Any) -> None:
        """
        Raises:
            TapertuneError: always.
        """
        raise TapertuneError(
            "update_and_allocate is PEFT's AdaLoRA's: give Trainer a tapertune.TapertuneCallback(), or call "
            "tapertune.attach(model, optimizer, total_steps=...) before the first step, and leave the call out"
        )

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        with rows_by_adapter(self, kwargs.pop("adapter_names", None), kwargs.get("num_beams")):
            yield

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: Any, adapter_name: str, *args: Any, **kwargs: Any
    ) -> Any:
        note_ranks(model, adapter_name)
        return super()._get_adapter_state_dict(model, config, adapter_name, *args, **kwargs)

    def _is_default(self, targets: Any, model: nn.Module) -> bool:
        kind = self.get_model_config(model).get("model_type")
        lists = self.target_module_mapping.values() if kind is None else [self.target_module_mapping.get(kind, [])]
        return set(targets) in [set(default) for default in lists]

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, self.tuner_layer_cls):
            target.update_layer(adapter_name, peft_config)
            return
        base = _base(target)
        if not adaptable(base):
            raise unsupported(current_key, base)
        quantization = get_quantization_kwargs(self.model)
        kind = layer_class_for(self.tuner_layer_cls.method.name, base)
        layer = kind(target, adapter_name, peft_config, current_key, **quantization)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # peft's own gives a module that comes back the weight of what was in its place, and not every module has one
        if isinstance(child, AuxiliaryTrainingWrapper | ParameterLayer) or isinstance(
            new_module, nn.MultiheadAttention
        ):
            setattr(parent, child_name, new_module)
        else:
            super()._replace_module(parent, child_name, new_module, child)


@functools.cache
def tuner_class(name: str) -> type[ChainTuner]:
    """The tuner class of a method."""
    row = get_method(name)
    values = {"prefix": row.prefix, "tuner_layer_cls": layer_class(name), "__module__": __name__}
    cls = cast("type[ChainTuner]", type(f"{row.title}Model", (ChainTuner,), values))
    setattr(sys.modules[__name__], cls.__name__, cls)  # where pickle looks for it
    return cls


def note_ranks(model: Any, adapter_name: str) -> None:
    """Writes into an adapter's config, which is saved after the weights, what a later load has to know: which ranks
    pruning has left and, where it says something of modules, which is which if loading renames them."""
    config = getattr(model, "_orig_mod", model).peft_config[adapter_name]
    if not isinstance(config, ChainConfig):
        return
    full = getattr(config, config.row.rank)
    layers = [m for m in model.modules() if isinstance(m, ChainLayer) and adapter_name in m.chains]
    ranks = {layer.module_path: layer.rank(adapter_name) for layer in layers}
    config.ranks = {module: rank for module, rank in ranks.items() if rank != full}
    config.adapted_modules = list(ranks) if config.ranks or config.frozen else []
    facts = {layer.module_path: (layer, layer.facts_of(layer.get_base_layer())) for layer in layers}
    config.coverage = coverage_of(AdaptedPart(path="", module=model, config=config), adapter_name).facts()
    config.layer_kinds = {path: {**known, "d_in": layer.in_features} for path, (layer, known) in facts.items() if known}


def _base(module: nn.Module) -> nn.Module:
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def adapt_model(model: nn.Module, config: ChainConfig) -> Any:
    """``peft.get_peft_model`` for one of our configs.

    Raises:
        TapertuneError: the config fits no module of the model, or none that can be adapted.
    """
    try:
        return get_peft_model(cast(Any, model), config)
    except TapertuneError:
        raise
    except ValueError as error:  # PEFT's way of saying that names match nothing or the wrong kind of module
        raise TapertuneError(f"method: {error}") from error
