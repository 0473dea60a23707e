"""What every method promises of linear layers holds for embeddings, convolutions and torch's attention."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from layer_kinds import CASES, NOT_IN_PEFT, Attending, Convolved, Embedded, adapted, base_of, rotation
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.func import functional_call

import tapertune
from tapertune.errors import TapertuneError
from tapertune.host import ChainLayer, adapter_parameters
from tapertune.interop import export_lora, export_model_lora
from tapertune.methods import METHODS

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning"),
    pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*whose plan nobody runs:UserWarning"),
]
TURNS = list(zip(CASES, rotation(len(CASES)), strict=True))
PRODUCT = [
    pytest.param(case, method, marks=() if (case, method) in TURNS else pytest.mark.slow)
    for case in CASES
    for method in METHODS
]


def close(a: Tensor, b: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-4)


def output(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def layers(model: nn.Module) -> list[ChainLayer]:
    return [module for module in model.modules() if isinstance(module, ChainLayer)]


def merged_output(model: PeftModel, base: nn.Module, x: Tensor) -> Tensor:
    """What the base computes with the updates added to its weights; gradients reach the factors."""
    weights = {}
    for layer in layers(model):
        path = layer.module_path.replace(".base_layer", "")
        name = f"{path}.in_proj_weight" if hasattr(base.get_submodule(path), "in_proj_weight") else f"{path}.weight"
        weights[name] = base.get_parameter(name).detach() + layer.get_delta_weight("default")
    return functional_call(base, weights, (x,))


@pytest.mark.parametrize(("case", "method"), PRODUCT)
def test_output_and_gradients_are_those_of_base_plus_update(case: str, method: str) -> None:
    base, x = base_of(case).double(), CASES[case][1]
    x = x.double() if x.is_floating_point() else x
    plain = base(x)
    close(adapted(copy.deepcopy(base), method, init_weights=True)(x), plain)
    model = adapted(copy.deepcopy(base), method).double()
    factors = [p for p in model.parameters() if p.requires_grad]
    expected = merged_output(model, base, x)
    assert not torch.allclose(expected, plain, atol=1e-3)
    wanted = torch.autograd.grad(expected.square().sum(), factors, allow_unused=True)
    out = model(x)
    close(out, expected, atol=1e-9)
    for grad, other in zip(torch.autograd.grad(out.square().sum(), factors), wanted, strict=True):
        assert other is not None
        if case != "embedding":  # where the padding token learns nothing, by its layer alone
            close(grad, other, atol=1e-8)


@pytest.mark.parametrize(("case", "method"), PRODUCT)
def test_merged_saved_loaded_and_exported(case: str, method: str, tmp_path: Path) -> None:
    base, x = base_of(case), CASES[case][1]
    plain = base(x)
    model = adapted(copy.deepcopy(base), method, dropout=0.3).eval()
    expected = output(model, x)
    model.merge_adapter(safe_merge=True)
    close(model(x), expected)
    model.unmerge_adapter()
    close(model(x), expected)
    with model.disable_adapter():
        close(model(x), plain)
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "adapter").eval()
    close(output(again, x), expected, atol=1e-6)
    error = None if METHODS[method].chain(METHODS[method].settings()).linear else 1e-4
    if case in NOT_IN_PEFT:
        with pytest.raises(TapertuneError, match="which PEFT's LoRA does not take over") as refused:
            export_model_lora(model, tmp_path / "refused", max_error=error)
        assert "\n" not in str(refused.value) and not (tmp_path / "refused").exists()
    else:
        export_model_lora(model, tmp_path / "of_model", max_error=error)
        export_lora(tmp_path / "adapter", tmp_path / "of_files", max_error=error)
        for folder in ("of_model", "of_files"):
            lora = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / folder).eval()
            assert not layers(lora)
            close(lora(x), expected, atol=1e-4)
    merged = model.merge_and_unload()
    assert not layers(merged)
    assert merged.state_dict().keys() == base.state_dict().keys()
    close(merged(x), expected)


@pytest.mark.parametrize(("case", "method"), [turn for turn in TURNS if turn[0] not in ("dilated", "same")])
def test_trained_with_parts_frozen_and_ranks_pruned(case: str, method: str, tmp_path: Path) -> None:
    """Whatever a plan decides, the layer computes what its factors say, and is loaded so."""
    base, x = base_of(case), CASES[case][1]
    model = adapted(copy.deepcopy(base), method, plan=None)
    handles = adapter_parameters(model)
    handles[0].freeze()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    before = handles[0].parameter.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    assert torch.equal(handles[0].parameter, before)
    close(model(x), merged_output(model, base, x))
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path, is_trainable=True)
    assert not next(h for h in adapter_parameters(again) if h.name == handles[0].name).parameter.requires_grad
    close(again(x), model(x))


@pytest.mark.parametrize(("case", "method"), [("embedding", "adalora"), ("groups", "sora"), ("attention", "lora2")])
def test_ranks_leave(case: str, method: str, tmp_path: Path) -> None:
    base, x = base_of(case), CASES[case][1]
    model = adapted(copy.deepcopy(base), method)
    symbol = METHODS[method].rank
    with torch.no_grad():
        for layer in layers(model):
            for factor in layer.chains["default"]:
                holder: Any = layer.factor_modules(factor.name)["default"]
                for axis, name in enumerate(factor.symbols):
                    if name == symbol:
                        holder.weight.data = holder.weight.data.narrow(axis, 0, 3).clone()
    assert {layer.rank("default") for layer in layers(model)} == {3}
    close(model(x), merged_output(model, base, x))
    model.save_pretrained(tmp_path / "adapter")
    close(PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "adapter")(x), model(x))
    export_model_lora(model, tmp_path / "lora")
    close(PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "lora")(x), model(x), atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_groups_say_which_ranks_they_take(method: str) -> None:
    rank = METHODS[method].rank
    with pytest.raises(TapertuneError, match=f"{rank} is 8; 'part' is a Conv1d of 3 groups.*such as 6 or 9") as error:
        adapted(nn.ModuleDict({"part": nn.Conv1d(6, 6, 3, groups=3)}), method, **{rank: 8})
    assert "\n" not in str(error.value)
    with pytest.raises(TapertuneError, match="such as 16:"):
        adapted(nn.ModuleDict({"part": nn.Conv1d(16, 16, 3, groups=16)}), method, **{rank: 8})


def test_padding_and_norm_are_the_embeddings_own() -> None:
    """The padding token learns nothing, and ``max_norm`` holds for the looked-up factor, as under PEFT."""
    x = torch.arange(20).view(2, 10)
    model = adapted("embedding", "lora")
    model(x).square().sum().backward()
    (grad,) = [p.grad for n, p in model.named_parameters() if "_A." in n]
    assert grad is not None
    assert not grad[:, 0].any() and grad[:, 1:].abs().sum(0).all()
    outputs = []
    for config in (
        tapertune.make_config("lora", r=4, lora_alpha=4, target_modules=["part"], init_weights=False),
        LoraConfig(r=4, lora_alpha=4, target_modules=["part"]),
    ):
        torch.manual_seed(0)
        normed = get_peft_model(Embedded(max_norm=0.5), config)
        layer: Any = normed.base_model.model.part
        for name, holder in (("A", "lora_embedding_A"), ("B", "lora_embedding_B")):
            shape = (4, 20) if name == "A" else (6, 4)
            value = torch.linspace(-1, 2, 4 * shape[0] * shape[1] // 4).view(shape)
            ours = isinstance(layer, ChainLayer)
            (layer.factor("default", name) if ours else getattr(layer, holder)["default"]).data = value
        outputs.append(normed(x))
    close(*outputs)


class Scaled(nn.Embedding):
    """As transformers' scaled embeddings, with an offset as its position embeddings have."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input + 1) * 3.0


@pytest.mark.parametrize("method", ["aflora", "loran"])
def test_an_embedding_with_a_forward_of_its_own(method: str) -> None:
    torch.manual_seed(0)
    base = nn.ModuleDict({"part": Scaled(9, 4)})
    x = torch.arange(8)
    layer = adapted(copy.deepcopy(base), method).base_model.model["part"]  # type: ignore[index]
    expected = functional_call(base["part"], {"weight": base["part"].weight + layer.get_delta_weight("default")}, (x,))
    close(layer(x), expected)


def test_dropout_and_half_precision_of_convolutions() -> None:
    base, x = base_of("conv2d"), CASES["conv2d"][1]
    model = adapted(copy.deepcopy(base), "lora", dropout=0.5)
    assert torch.equal(model.eval()(x), model(x))
    assert not torch.equal(model.train()(x), model(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model.eval()(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), model(x), atol=0.05, rtol=0.05)
    narrow = adapted(base_of("conv2d").bfloat16(), "lora")
    assert {p.dtype for p in narrow.parameters() if p.requires_grad} == {torch.float32}
    narrow(x.bfloat16()).sum().backward()
    assert all(p.grad is not None for p in narrow.parameters() if p.requires_grad)


def test_rows_of_a_batch_have_adapters_of_their_own(tmp_path: Path) -> None:
    for case in ("embedding", "conv2d"):
        model, x = adapted(case, "aflora"), CASES[case][1]
        torch.manual_seed(5)
        config = tapertune.make_config("aflora", r=2, target_modules=["part"], init_weights=False)
        model.add_adapter("other", config)
        first = model.eval()(x)
        model.set_adapter("other")
        second = model(x)
        mixed = model(x, adapter_names=["default", "other"])
        close(mixed, torch.stack([first[0], second[1]]))
    attention = adapted("attention", "lora").eval()
    with pytest.raises(TapertuneError, match="in which all rows have one adapter"):
        attention(CASES["attention"][1], adapter_names=["default", "default"])


def test_several_adapters_of_attention() -> None:
    model, x = adapted("attention", "sora").eval(), CASES["attention"][1]
    first = model(x)
    torch.manual_seed(5)
    model.add_adapter("other", tapertune.make_config("sora", r=2, target_modules=["part"], init_weights=False))
    close(model(x), first)
    model.base_model.set_adapter(["default", "other"])
    both = model(x)
    assert not torch.allclose(both, first, atol=1e-4)
    model.merge_adapter(adapter_names=["default", "other"])
    close(model(x), both)
    model.unmerge_adapter()
    model.set_adapter("default")
    model.delete_adapter("other")
    close(model(x), first)


def test_attention_within_torchs_encoder_layer() -> None:
    torch.manual_seed(0)
    base = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True).eval()
    x = CASES["attention"][1]
    model = adapted(copy.deepcopy(nn.ModuleDict({"body": base})), "lora", target_modules=["self_attn"]).eval()
    with torch.no_grad():
        out = model.base_model.model["body"](x)  # type: ignore[index]
        merged = model.merge_and_unload()
        close(out, merged["body"](x))
        assert not torch.allclose(out, base(x), atol=1e-3)


@pytest.mark.parametrize("case", ["embedding", "groups", "attention"])
def test_copies_and_pickles(case: str) -> None:
    model, x = adapted(case, "aflora").eval(), CASES[case][1]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(adapted(_plain(case), "aflora").eval()))):
        assert layers(twin) and twin(x).shape == model(x).shape


def _plain(case: str) -> nn.Module:
    kinds: dict[str, Callable[[], nn.Module]] = {
        "embedding": Embedded,
        "groups": lambda: Convolved(nn.Conv2d(4, 6, 3, groups=2)),
        "attention": Attending,
    }
    return kinds[case]()


class Reads(nn.Module):
    """Reads the weights of a layer that it never calls."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.part.weight.flatten(1).T


@pytest.mark.parametrize("part", [nn.Linear(4, 4), nn.Embedding(4, 4), nn.Conv1d(4, 4, 1)])
def test_layers_whose_weights_are_only_read_are_refused(part: nn.Module) -> None:
    with pytest.raises(TapertuneError, match=r"'0\.part' cannot be adapted: Reads reads its weight rather"):
        adapted(nn.Sequential(Reads(part)), "lora")


def test_a_weight_that_is_made_of_others_is_refused() -> None:
    wave = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3))
    with pytest.raises(ValueError, match="is a ParametrizedConv1d, which is not supported"):
        adapted(nn.ModuleDict({"part": wave}), "lora")
    with pytest.raises(ValueError, match="is a MultiheadAttention, which is not supported"):
        adapted(nn.ModuleDict({"part": nn.MultiheadAttention(8, 2, kdim=4)}), "lora")
