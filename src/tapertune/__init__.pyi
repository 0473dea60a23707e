# Written by docs/generate_methods.py: the package's names, and the configs that are made from METHODS.

from typing import Any

from .adapt import Controller as Controller
from .adapt import Plan as Plan
from .errors import TapertuneError as TapertuneError
from .host import make_config as make_config
from .host import parameter_groups as parameter_groups
from .host import suggest_learning_rate as suggest_learning_rate
from .host import updates_kept as updates_kept
from .host.config import ChainConfig
from .integrations import TapertuneCallback as TapertuneCallback
from .integrations import attach as attach
from .integrations import cache_layers as cache_layers
from .methods import METHODS as METHODS

__version__: str

class LoraConfig(ChainConfig):
    def __init__(
        self,
        *,
        r: int = 8,
        lora_alpha: float = 16,
        dropout: float = 0.0,
        target_modules: list[str] | set[str] | str | None = None,
        target_parameters: list[str] | None = None,
        exclude_modules: list[str] | set[str] | str | None = None,
        modules_to_save: list[str] | None = None,
        layers_to_transform: list[int] | int | None = None,
        layers_pattern: list[str] | str | None = None,
        train_layers: float | int | None = None,
        trainable_token_indices: list[int] | dict[str, list[int]] | None = None,
        init_weights: bool = True,
        factor_rates: dict[str, float] | None = None,
        plan: dict[str, Any] | list[dict[str, Any]] | None = None,
        task_type: str | None = None,
        base_model_name_or_path: str | None = None,
        revision: str | None = None,
        inference_mode: bool = False,
        lora_dropout: float = ...,
    ) -> None: ...
    r: int
    lora_alpha: float
    dropout: float

class AFLoraConfig(ChainConfig):
    def __init__(
        self,
        *,
        r: int = 4,
        lora_alpha: float = 8,
        dropout: float = 0.0,
        scaling: str = "none",
        d_initial: float = 0.1,
        projection_scope: str = "ffn",
        target_modules: list[str] | set[str] | str | None = None,
        target_parameters: list[str] | None = None,
        exclude_modules: list[str] | set[str] | str | None = None,
        modules_to_save: list[str] | None = None,
        layers_to_transform: list[int] | int | None = None,
        layers_pattern: list[str] | str | None = None,
        train_layers: float | int | None = None,
        trainable_token_indices: list[int] | dict[str, list[int]] | None = None,
        init_weights: bool = True,
        factor_rates: dict[str, float] | None = None,
        plan: dict[str, Any] | list[dict[str, Any]] | None = None,
        task_type: str | None = None,
        base_model_name_or_path: str | None = None,
        revision: str | None = None,
        inference_mode: bool = False,
        lora_dropout: float = ...,
    ) -> None: ...
    r: int
    lora_alpha: float
    dropout: float
    scaling: str
    d_initial: float
    projection_scope: str

class AdaLoraConfig(ChainConfig):
    def __init__(
        self,
        *,
        init_r: int = 12,
        target_r: int | None = None,
        lora_alpha: float = 16,
        dropout: float = 0.0,
        tinit: float = 0.1,
        tfinal: float = 0.3,
        deltaT: int = 10,
        beta1: float = 0.85,
        beta2: float = 0.85,
        orth_reg_weight: float = 0.1,
        orth_form: str = "squared_sum",
        target_modules: list[str] | set[str] | str | None = None,
        target_parameters: list[str] | None = None,
        exclude_modules: list[str] | set[str] | str | None = None,
        modules_to_save: list[str] | None = None,
        layers_to_transform: list[int] | int | None = None,
        layers_pattern: list[str] | str | None = None,
        train_layers: float | int | None = None,
        trainable_token_indices: list[int] | dict[str, list[int]] | None = None,
        init_weights: bool = True,
        factor_rates: dict[str, float] | None = None,
        plan: dict[str, Any] | list[dict[str, Any]] | None = None,
        task_type: str | None = None,
        base_model_name_or_path: str | None = None,
        revision: str | None = None,
        inference_mode: bool = False,
        r: int = ...,
        lora_dropout: float = ...,
    ) -> None: ...
    init_r: int
    target_r: int | None
    lora_alpha: float
    dropout: float
    tinit: float
    tfinal: float
    deltaT: int
    beta1: float
    beta2: float
    orth_reg_weight: float
    orth_form: str

class Lora2Config(ChainConfig):
    def __init__(
        self,
        *,
        init_r: int = 8,
        target_r: int | None = None,
        lora_alpha: float = 16,
        dropout: float = 0.0,
        tinit: float = 0.1,
        tfinal: float = 0.3,
        deltaT: int = 10,
        beta1: float = 0.85,
        beta2: float = 0.85,
        orth_reg_weight: float = 0.1,
        orth_form: str = "squared_sum",
        k: int = 8,
        orth_planes: bool = True,
        orth_cross: bool = True,
        target_modules: list[str] | set[str] | str | None = None,
        target_parameters: list[str] | None = None,
        exclude_modules: list[str] | set[str] | str | None = None,
        modules_to_save: list[str] | None = None,
        layers_to_transform: list[int] | int | None = None,
        layers_pattern: list[str] | str | None = None,
        train_layers: float | int | None = None,
        trainable_token_indices: list[int] | dict[str, list[int]] | None = None,
        init_weights: bool = True,
        factor_rates: dict[str, float] | None = None,
        plan: dict[str, Any] | list[dict[str, Any]] | None = None,
        task_type: str | None = None,
        base_model_name_or_path: str | None = None,
        revision: str | None = None,
        inference_mode: bool = False,
        r: int = ...,
        lora_dropout: float = ...,
    ) -> None: ...
    init_r: int
    target_r: int | None
    lora_alpha: float
    dropout: float
    tinit: float
    tfinal: float
    deltaT: int
    beta1: float
    beta2: float
    orth_reg_weight: float
    orth_form: str
    k: int
    orth_planes: bool
    orth_cross: bool

class LoranConfig(ChainConfig):
    def __init__(
        self,
        *,
        r: int = 64,
        lora_alpha: float = 16,
        dropout: float = 0.0,
        activation: str = "sinter",
        amplitude: float = 5e-05,
        omega: float = 10000.0,
        p_sizes: tuple[int, ...] | list[int] = ...,
        offsets: bool = False,
        center: bool = True,
        target_modules: list[str] | set[str] | str | None = None,
        target_parameters: list[str] | None = None,
        exclude_modules: list[str] | set[str] | str | None = None,
        modules_to_save: list[str] | None = None,
        layers_to_transform: list[int] | int | None = None,
        layers_pattern: list[str] | str | None = None,
        train_layers: float | int | None = None,
        trainable_token_indices: list[int] | dict[str, list[int]] | None = None,
        init_weights: bool = True,
        factor_rates: dict[str, float] | None = None,
        plan: dict[str, Any] | list[dict[str, Any]] | None = None,
        task_type: str | None = None,
        base_model_name_or_path: str | None = None,
        revision: str | None = None,
        inference_mode: bool = False,
        lora_dropout: float = ...,
    ) -> None: ...
    r: int
    lora_alpha: float
    dropout: float
    activation: str
    amplitude: float
    omega: float
    p_sizes: tuple[int, ...] | list[int]
    offsets: bool
    center: bool

class SoraConfig(ChainConfig):
    def __init__(
        self,
        *,
        r: int = 8,
        lora_alpha: float = 16,
        dropout: float = 0.0,
        threshold: float = 0.0003,
        threshold_form: str = "soft",
        threshold_times_lr: bool = False,
        sparse_lambda: float = 0.0,
        target_modules: list[str] | set[str] | str | None = None,
        target_parameters: list[str] | None = None,
        exclude_modules: list[str] | set[str] | str | None = None,
        modules_to_save: list[str] | None = None,
        layers_to_transform: list[int] | int | None = None,
        layers_pattern: list[str] | str | None = None,
        train_layers: float | int | None = None,
        trainable_token_indices: list[int] | dict[str, list[int]] | None = None,
        init_weights: bool = True,
        factor_rates: dict[str, float] | None = None,
        plan: dict[str, Any] | list[dict[str, Any]] | None = None,
        task_type: str | None = None,
        base_model_name_or_path: str | None = None,
        revision: str | None = None,
        inference_mode: bool = False,
        lora_dropout: float = ...,
    ) -> None: ...
    r: int
    lora_alpha: float
    dropout: float
    threshold: float
    threshold_form: str
    threshold_times_lr: bool
    sparse_lambda: float

class EloraConfig(ChainConfig):
    def __init__(
        self,
        *,
        r: int = 256,
        dropout: float = 0.0,
        d_initial: float = 0.1,
        shared: bool = True,
        projection_prng_key: int = 0,
        save_projection: bool = True,
        target_modules: list[str] | set[str] | str | None = None,
        target_parameters: list[str] | None = None,
        exclude_modules: list[str] | set[str] | str | None = None,
        modules_to_save: list[str] | None = None,
        layers_to_transform: list[int] | int | None = None,
        layers_pattern: list[str] | str | None = None,
        train_layers: float | int | None = None,
        trainable_token_indices: list[int] | dict[str, list[int]] | None = None,
        init_weights: bool = True,
        factor_rates: dict[str, float] | None = None,
        plan: dict[str, Any] | list[dict[str, Any]] | None = None,
        task_type: str | None = None,
        base_model_name_or_path: str | None = None,
        revision: str | None = None,
        inference_mode: bool = False,
        lora_dropout: float = ...,
    ) -> None: ...
    r: int
    dropout: float
    d_initial: float
    shared: bool
    projection_prng_key: int
    save_projection: bool
