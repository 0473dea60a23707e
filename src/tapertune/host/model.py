"""One PEFT tuner for every chain."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from peft.mapping_func import get_peft_model
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, _get_in_out_features, _maybe_include_all_linear_layers
from peft.utils.quantization_utils import get_quantization_kwargs
from torch import nn

from ..errors import TapertuneError, nearest
from ..methods import Matrix, get_method
from .config import ChainConfig
from .layer import ChainLayer, adaptable, layer_class
from .layout import keep_layout
from .mixed_batch import rows_by_adapter
from .naming import TARGETS
from .siblings import link


class ChainTuner(BaseTuner):
    """Puts a method's layers into a model. PEFT makes it; users call ``get_peft_model``."""

    tuner_layer_cls: type[ChainLayer]  # pyright: ignore[reportIncompatibleVariableOverride]
    target_module_mapping = TARGETS

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict) -> Any:
        kind = model_config.get("model_type")
        if peft_config.target_modules is None and kind not in self.target_module_mapping:
            raise ValueError(
                f"Please specify `target_modules` in `peft_config`: no default is known for model type {kind!r} "
                "('all-linear' adapts every linear layer but the output)"
            )
        return super()._prepare_adapter_config(peft_config, model_config)

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        self._check_targets(peft_config, model)
        peft_config.projections.clear()
        chain = peft_config.row.chain(peft_config.settings())
        if any(isinstance(f, Matrix) and f.shared for f in chain) and not peft_config.shared_sizes:
            # 'all-linear' is spelled out by PEFT only later
            peft_config = _maybe_include_all_linear_layers(peft_config, model)
            matches = [m for name, m in model.named_modules() if self._check_target_module_exists(peft_config, name)]
            widths = [_get_in_out_features(_base(m)) for m in matches if adaptable(_base(m))]
            for symbol, sides in zip(("d_in", "d_out"), zip(*widths, strict=True), strict=False):
                peft_config.shared_sizes[symbol] = max(sides)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        keep_layout(model, trains=not self.peft_config[adapter_name].inference_mode)
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        link(model, self.tuner_layer_cls)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        with rows_by_adapter(self, kwargs.pop("adapter_names", None), kwargs.get("num_beams")):
            yield

    def _check_targets(self, peft_config: Any, model: nn.Module) -> None:
        targets = peft_config.target_modules
        if isinstance(targets, str):
            return
        names = [name for name, _ in model.named_modules() if name]
        missing = [t for t in sorted(targets) if not any(n == t or n.endswith("." + t) for n in names)]
        # a default list covers an architecture's variants; of a list that someone wrote, nothing may be left out unsaid
        if missing and not self._is_default(targets):
            linear = {name for name, module in model.named_modules() if adaptable(module)}
            guess = nearest(missing[0], _endings(linear))
            hint = f"; did you mean {guess!r}?" if guess else ""
            raise TapertuneError(f"target_modules: no module is called {missing[0]!r}{hint}")

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: Any, adapter_name: str, *args: Any, **kwargs: Any
    ) -> Any:
        # the config is saved after the weights: it tells a later load which ranks pruning has left
        full = getattr(config, config.row.rank)
        layers = [m for m in model.modules() if isinstance(m, ChainLayer) and adapter_name in m.chains]
        ranks = {layer.module_path: layer.rank(adapter_name) for layer in layers}
        config.ranks = {module: rank for module, rank in ranks.items() if rank != full}
        return super()._get_adapter_state_dict(model, config, adapter_name, *args, **kwargs)

    def _is_default(self, targets: Any) -> bool:
        return set(targets) in [set(default) for default in self.target_module_mapping.values()]

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
            raise ValueError(
                f"Target module {current_key!r} is a {type(base).__name__}, which is not supported. "
                "Linear layers (torch.nn.Linear, transformers' Conv1D and their quantised forms) are."
            )
        quantization = get_quantization_kwargs(self.model)
        layer = self.tuner_layer_cls(target, adapter_name, peft_config, current_key, **quantization)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)


@functools.cache
def tuner_class(name: str) -> type[ChainTuner]:
    """The tuner class of a method."""
    row = get_method(name)
    return cast(
        "type[ChainTuner]",
        type(
            f"{row.title}Model",
            (ChainTuner,),
            {"prefix": row.prefix, "tuner_layer_cls": layer_class(name), "__module__": __name__},
        ),
    )


def _base(module: nn.Module) -> nn.Module:
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def _endings(names: set[str]) -> set[str]:
    return {".".join(parts[i:]) for parts in (name.split(".") for name in names) for i in range(len(parts))}


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


def find_config(model: nn.Module, adapter_name: str) -> ChainConfig:
    """The config of a model's tapertune adapter.

    Raises:
        TapertuneError: the model has no such adapter, or it is not one of ours.
    """
    configs = getattr(model, "peft_config", None) or {}
    config = configs.get(adapter_name)
    if config is None:
        names = ", ".join(sorted(configs)) or "none"
        raise TapertuneError(f"the model has no adapter {adapter_name!r}; its adapters: {names}")
    if not isinstance(config, ChainConfig):
        raise TapertuneError(f"adapter {adapter_name!r} is PEFT's {config.peft_type}, not one of tapertune's methods")
    return config
