"""Targets that cannot be adapted are refused, and what a wildcard leaves out is named."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny import tiny_bert
from torch import nn
from transformers import (
    BambaConfig,
    BambaForCausalLM,
    FalconMambaConfig,
    FalconMambaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

import tapertune
from tapertune.errors import TapertuneError
from tapertune.host.targets import stacked_parameters
from tapertune.methods import METHODS

SIZES: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 24}


def mixtral() -> nn.Module:
    return MixtralForCausalLM(MixtralConfig(**SIZES, **HEADS, num_local_experts=4))


def qwen() -> nn.Module:
    sizes = {"moe_intermediate_size": 8, "shared_expert_intermediate_size": 8, "num_experts_per_tok": 2}
    return Qwen2MoeForCausalLM(Qwen2MoeConfig(**SIZES, **HEADS, **sizes, num_experts=4))


class Own(nn.Module):
    """Torch's layer and a linear one, beside parameters that are no stacks of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True)
        self.head = nn.Linear(16, 2)
        self.wave = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3))
        self.positions = nn.Parameter(torch.zeros(1, 5, 16))


def adapt(base: nn.Module, targets: Any, method: str = "aflora", **values: Any) -> PeftModel:
    return get_peft_model(base, tapertune.make_config(method, target_modules=targets, **values))


def said(base: nn.Module, targets: Any, method: str = "aflora") -> str:
    """What is warned of when a model is adapted."""
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always", UserWarning)
        adapt(base, targets, method)
    return " ".join(str(each.message) for each in messages)


@pytest.mark.parametrize("method", METHODS)
def test_a_pattern_names_the_experts_that_it_leaves_out(method: str) -> None:
    base = mixtral()
    experts = sum(p.numel() for n, p in base.named_parameters() if "experts" in n)
    share = 100 * experts / base.num_parameters()
    message = said(base, r".*proj", method)
    assert f"MixtralExperts (gate_up_proj, down_proj; {share:.3g}% of the parameters)" in message
    assert "adapted where target_parameters names them" in message
    assert not said(mixtral(), "all-linear", method)


@pytest.mark.parametrize(
    ("base", "targets", "message"),
    [
        (qwen, ["down_proj"], "Qwen2MoeExperts (down_proj; "),
        (qwen, ["gate_proj", "q_proj"], "Qwen2MoeExperts (gate_up_proj; "),
        (mixtral, r".*proj", "MixtralExperts (gate_up_proj, down_proj; "),
        (Own, "ALL-LINEAR", "MultiheadAttention (in_proj_weight, out_proj; "),
    ],
)
def test_what_is_named_and_left_out_is_said(base: Callable[[], nn.Module], targets: Any, message: str) -> None:
    assert message in said(base(), targets)


@pytest.mark.parametrize(
    ("base", "targets", "values"),
    [
        (mixtral, ["q_proj"], {}),
        (mixtral, r".*\.q_proj", {}),
        (mixtral, "all-linear", {"exclude_modules": ["experts"]}),
        (mixtral, "all-linear", {"modules_to_save": ["experts"]}),
        (Own, "all-linear", {"exclude_modules": ["self_attn", "out_proj"]}),
        (Own, ["head"], {}),
        (tiny_bert, "all-linear", {}),
    ],
)
def test_nothing_is_said_where_nothing_is_missing(
    base: Callable[[], nn.Module], targets: Any, values: dict[str, Any]
) -> None:
    model = base()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        adapt(model, targets, **values)


def test_a_loaded_adapter_says_it_no_more(tmp_path: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        adapt(mixtral(), r".*proj").save_pretrained(tmp_path)
    PeftModel.from_pretrained(mixtral(), tmp_path)


SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    ("base", "targets", "message"),
    [
        (mixtral, ["down_proj"], "'down_proj' is a 3D parameter of MixtralExperts .*Allowed: k_proj, lm_head"),
        (mixtral, ["q_proj", "experts.down_proj"], "'experts.down_proj' is a 3D parameter of MixtralExperts"),
        (mixtral, SEVEN, "'down_proj' is a 3D parameter"),
        (mixtral, ["gate_proj"], "no module is called 'gate_proj'; the nearest is 'gate_up_proj', a 3D parameter of"),
        (mixtral, ["w1"], "no module is called 'w1'; the nearest is 'gate_up_proj', a 3D parameter"),
        (mixtral, r".*down_proj", r"'\.\*down_proj' is a 3D parameter"),
        (mixtral, ["experts"], "is a MixtralExperts, .*3D parameters \\(gate_up_proj, down_proj"),
        (Own, ["in_proj_weight"], "is a 2D parameter of MultiheadAttention .*Allowed: head, linear1, linear2$"),
    ],
)
def test_parameters_are_refused_by_name(base: Callable[[], nn.Module], targets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        adapt(base(), targets)
    assert "\n" not in str(error.value)


def test_what_counts_as_stacked() -> None:
    assert list(stacked_parameters(Own())) == []
    assert len(stacked_parameters(qwen())) == 4


def mamba() -> nn.Module:
    return MambaForCausalLM(MambaConfig(**SIZES, state_size=4))


def mamba2() -> nn.Module:
    return Mamba2ForCausalLM(Mamba2Config(**SIZES, state_size=4, num_heads=4, head_dim=8, n_groups=1))


def falcon_mamba() -> nn.Module:
    return FalconMambaForCausalLM(FalconMambaConfig(**SIZES, state_size=4))


def bamba() -> nn.Module:
    sizes = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "attn_layer_indices": [1]}
    return BambaForCausalLM(BambaConfig(**SIZES, **HEADS, **sizes))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("targets", [["in_proj", "out_proj"], r".*(in|out)_proj", "all-linear"])
def test_mamba_refuses_what_its_kernels_read(method: str, targets: Any) -> None:
    with pytest.raises(TapertuneError, match="out_proj' cannot be adapted: it is incompatible with Mamba-based models"):
        adapt(mamba(), targets, method)


@pytest.mark.parametrize("base", [mamba2, falcon_mamba, bamba])
def test_mambas_kin_refuse_too(base: Callable[[], nn.Module]) -> None:
    with pytest.raises(TapertuneError, match="incompatible with Mamba-based models"):
        adapt(nn.ModuleDict({"inside": base()}), ["out_proj"])
    adapt(base(), ["in_proj"])


@pytest.mark.parametrize("method", METHODS)
def test_torchs_attention_refuses_its_output_projection(method: str) -> None:
    for targets in (["out_proj"], ["linear1", "self_attn.out_proj"], r".*(out_proj|linear1)"):
        with pytest.raises(TapertuneError, match=r"self_attn.out_proj' cannot be adapted: nn.MultiheadAttention reads"):
            adapt(Own(), targets, method)


def test_a_second_adapter_for_all_linear_layers() -> None:
    model = adapt(tiny_bert(), "all-linear")
    model.add_adapter("other", tapertune.make_config("aflora", target_modules="all-linear"))
    first, second = (set(model.peft_config[name].target_modules) for name in ("default", "other"))
    assert first == second
