"""What is frozen and pruned goes along when loading renames modules."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny import batch, tiny_bert
from torch import nn

import tapertune
from tapertune.adapt import Controller, make_plans
from tapertune.host import adapter_parameters
from tapertune.host.renamed import match_modules
from tapertune.methods import METHODS

OLD, NEW = ("encoder", "q", "k"), ("body", "query", "key")


class Block(nn.Module):
    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names
        for name in names[1:]:
            setattr(self, name, nn.Linear(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.names[1:]:
            x = x + torch.tanh(getattr(self, name)(x))
        return x


class Net(nn.Module):
    """Two blocks whose container and layers are called as the names say."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.names = names
        setattr(self, names[0], nn.Sequential(Block(names), Block(names)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, self.names[0])(x)


def trained(method: str, base: nn.Module, targets: list[str] | None = None, **values: object) -> nn.Module:
    """An adapter in which something is frozen, and a rank gone, where there is a gate."""
    config = tapertune.make_config(method, target_modules=targets, init_weights=False, **values)
    model = get_peft_model(base, config)
    handles = adapter_parameters(model)
    for handle in handles[::3]:
        handle.freeze()
    layer = handles[0].home
    gates = [f.name for f in layer.chains["default"] if len(f.symbols) == 1 and f.symbols[0] == layer.method.rank]
    if gates and not any(handle.shared for handle in handles):
        for handle in (each for each in handles if each.module == handles[0].module):
            if layer.method.rank in handle.symbols:
                axis = handle.symbols.index(layer.method.rank)
                parameter = handle.parameter
                parameter.data = parameter.data.narrow(axis, 0, parameter.shape[axis] - 2).clone()
    return model


def trains(model: nn.Module) -> list[tuple[str, str, tuple[int, ...]]]:
    return [
        (h.module, h.factor, tuple(h.parameter.shape)) for h in adapter_parameters(model) if h.parameter.requires_grad
    ]


def renamed(rows: list[tuple[str, str, tuple[int, ...]]], old: list[str], new: list[str]) -> list:
    places = dict(zip(old, new, strict=True))
    return [(places[module], *rest) for module, *rest in rows]


def modules(model: nn.Module) -> list[str]:
    return list(dict.fromkeys(handle.module for handle in adapter_parameters(model)))


MAPPING = {r"^encoder\.(\d)\.q\.": r"body.\1.query.", r"^encoder\.(\d)\.k\.": r"body.\1.key."}


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_key_mapping(method: str, low_cpu_mem_usage: bool, tmp_path: Path) -> None:
    model = trained(method, Net(OLD), ["q", "k"])
    model.save_pretrained(tmp_path / "old")
    x = torch.randn(3, 8)
    config = tapertune.make_config(method)
    config = type(config).from_pretrained(tmp_path / "old")
    config.target_modules = {"query", "key"}
    values = {"key_mapping": MAPPING, "is_trainable": True, "low_cpu_mem_usage": low_cpu_mem_usage}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PEFT's: the config was changed
        loaded = PeftModel.from_pretrained(Net(NEW), tmp_path / "old", config=config, **values)
    torch.testing.assert_close(loaded.eval()(x), model.eval()(x))
    assert trains(loaded) == renamed(trains(model), modules(model), modules(loaded))
    loaded.save_pretrained(tmp_path / "new")
    again = PeftModel.from_pretrained(Net(NEW), tmp_path / "new", is_trainable=True)
    torch.testing.assert_close(again.eval()(x), model.eval()(x))
    assert trains(again) == trains(loaded)
    assert set(again.peft_config["default"].frozen) <= set(modules(again))


@pytest.mark.parametrize("method", METHODS)
def test_a_renamed_container_needs_no_list(method: str, tmp_path: Path) -> None:
    """As saved before configs listed their modules: endings tell."""
    names = ("body", *OLD[1:])
    model = trained(method, Net(OLD), ["q", "k"])
    model.save_pretrained(tmp_path)
    config = type(model.peft_config["default"]).from_pretrained(tmp_path)
    config.adapted_modules = []
    values = {"key_mapping": {"^encoder": "body"}, "is_trainable": True}
    loaded = PeftModel.from_pretrained(Net(names), tmp_path, config=config, **values)
    assert trains(loaded) == renamed(trains(model), modules(model), modules(loaded))


@pytest.mark.parametrize("method", METHODS)
def test_names_that_transformers_maps(method: str, tmp_path: Path) -> None:
    """A model's class says how its older checkpoints' names map."""
    model = trained(method, Net(OLD), ["q", "k"])
    model.save_pretrained(tmp_path)

    class Newer(Net):
        _checkpoint_conversion_mapping = {"^encoder": "body"}  # noqa: RUF012 - as in transformers

    loaded = PeftModel.from_pretrained(Newer(("body", *OLD[1:])), tmp_path, is_trainable=True)
    assert trains(loaded) == renamed(trains(model), modules(model), modules(loaded))


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_of_a_model_with_a_head_in_one_without(method: str, tmp_path: Path) -> None:
    model = trained(method, tiny_bert())
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model.base_model.model.bert(**{k: v for k, v in batch().items() if k != "labels"})[0]
    body = PeftModel.from_pretrained(tiny_bert().bert, tmp_path, is_trainable=True, key_mapping={r"^bert\.": ""})
    with torch.no_grad():
        actual = body(**{k: v for k, v in batch().items() if k != "labels"})[0]
    torch.testing.assert_close(actual, expected)
    assert trains(body) == renamed(trains(model), modules(model), modules(body))


def test_what_is_lost_is_said(tmp_path: Path) -> None:
    model = trained("aflora", Net(OLD), ["q", "k"])
    model.save_pretrained(tmp_path)
    config = type(model.peft_config["default"]).from_pretrained(tmp_path)
    config.target_modules = {"q"}
    with pytest.warns(UserWarning, match=r"modules that are not adapted in this model \(2, such as 'encoder.0.k'\)"):
        get_peft_model(Net(OLD), config)
    assert set(config.frozen) == {"encoder.0.q", "encoder.1.q"}


def test_a_run_goes_on_under_new_names(tmp_path: Path) -> None:
    trained("aflora", Net(OLD), ["q", "k"]).save_pretrained(tmp_path)
    values = {"key_mapping": {"^encoder": "body"}, "is_trainable": True}
    model = PeftModel.from_pretrained(Net(("body", *OLD[1:])), tmp_path, **values)
    handles = adapter_parameters(model)
    controller = Controller(handles, make_plans([]), 2)
    assert controller.trainable == sum(h.parameter.numel() for h in handles if h.parameter.requires_grad)


@pytest.mark.parametrize(
    ("old", "new", "in_order", "expected"),
    [
        (["a.q", "a.k"], ["a.k", "a.q"], True, {"a.q": "a.q", "a.k": "a.k"}),
        (["m.0.q", "m.1.q"], ["0.q", "1.q"], False, {"m.0.q": "0.q", "m.1.q": "1.q"}),
        (["0.q", "0.k"], ["0.query", "0.key"], True, {"0.q": "0.query", "0.k": "0.key"}),
        (["0.q", "0.k"], ["0.query", "0.key"], False, {}),
        (["x.0.q", "y.0.q"], ["z.0.q"], True, {}),
        (["x.0.q", "x.1.q"], ["x.0.q", "z.1.q"], False, {"x.0.q": "x.0.q", "x.1.q": "z.1.q"}),
    ],
)
def test_matching(old: list[str], new: list[str], in_order: bool, expected: dict[str, str]) -> None:
    assert match_modules(old, new, in_order=in_order) == expected
