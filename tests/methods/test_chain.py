"""What follows from a declaration alone."""

from __future__ import annotations

import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tapertune.errors import TapertuneError
from tapertune.kernels import KERNELS
from tapertune.kernels.update_flops import flops_per_token, saved_bytes_per_token
from tapertune.methods import METHODS, Chain, Diagonal, Matrix, get_method
from tapertune.methods.init import zeros

SIZES = {"d_in": 7, "d_out": 9, "r": 3, "init_r": 3, "k": 2}

# shapes that no method has yet, to hold the derivations against declarations rather than against two methods
LINEAR = {name: row for name, row in METHODS.items() if row.chain(row.settings()).linear}
CHAINS = {name: row.chain(row.settings(**{row.rank: 3})) for name, row in LINEAR.items()} | {
    "inner": Chain(
        Matrix("A", "d_in", "r", zeros), Matrix("B", "r", "k", zeros), Diagonal("E", "k", zeros),
        Matrix("aa", "k", "r", zeros), Matrix("bb", "r", "d_out", zeros),
    ),
    "outer": Chain(
        Diagonal("a", "d_in", zeros), Matrix("A", "d_in", "r", zeros), Diagonal("d", "r", zeros),
        Diagonal("e", "r", zeros), Matrix("B", "r", "d_out", zeros),
    ),
}  # fmt: skip


def tensors_of(chain: Chain, sizes: dict[str, int] = SIZES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = chain.shapes(sizes).items()
    return {
        name: torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for name, shape in shapes
    }


@pytest.fixture(params=CHAINS)
def chain(request: pytest.FixtureRequest) -> Chain:
    return CHAINS[request.param]


def test_lora_form_is_exact_and_narrowest(chain: Chain) -> None:
    tensors = tensors_of(chain)
    down, up = chain.lora_factors(tensors)
    rank = min(chain.shapes(SIZES)[name][0] for name in chain.matrices[:-1])
    assert down.shape == (rank, 7) and up.shape == (9, rank)
    x = torch.randn(5, 7, dtype=torch.float64)
    torch.testing.assert_close(chain.apply(x, tensors), x @ chain.delta_weight(tensors).T)
    torch.testing.assert_close(chain.apply(x, tensors), x @ down.T @ up.T)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_equal_the_equations_and_their_gradients(chain: Chain, name: str) -> None:
    tensors = tensors_of(chain)
    x = torch.randn(4, 5, 7, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(4, 5, 9, dtype=torch.float64)
    inputs = [x, *tensors.values()]
    expected = torch.autograd.grad(chain.apply(x, tensors) * 1.5, inputs, grad)
    out = KERNELS[name](chain, x, tensors, 1.5)
    torch.testing.assert_close(out, chain.apply(x, tensors) * 1.5)
    for got, want in zip(torch.autograd.grad(out, inputs, grad), expected, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("trains", ["all", "vectors", "first", "last"])
def test_folded_cost_is_what_runs(chain: Chain, trains: str) -> None:
    """FLOPs against torch's counter, kept activations against what autograd really saves."""
    sizes = {"d_in": 64, "d_out": 96, "r": 8, "init_r": 8, "k": 4}
    vectors = [f.name for f in chain if isinstance(f, Diagonal)]
    names = {"all": chain.names, "vectors": vectors, "first": chain.names[:1], "last": chain.names[-1:]}[trains]
    if not names:
        pytest.skip("the chain has no vector")
    tensors = {n: t.detach().float().requires_grad_(n in names) for n, t in tensors_of(chain, sizes).items()}
    tokens = 1000
    x = torch.randn(tokens, 64, requires_grad=True)
    saved: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        if tokens in t.shape:
            saved[t.data_ptr()] = t.numel() * t.element_size()
        return t

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = KERNELS["lowrank"](chain, x, tensors, 1.0)
        y.sum().backward()
    assert sum(saved.values()) == tokens * saved_bytes_per_token(chain, sizes, names)
    flops = flops_per_token(chain, sizes, names, way="kernel")
    # inner factors are folded once a step, at a cost that does not grow with the tokens
    folds = counter.get_total_flops() - tokens * flops.total
    inner_matrices = len(chain.matrices) > 2
    assert (folds > 0) == inner_matrices
    assert folds <= inner_matrices * 40 * sizes["d_out"] * sizes["r"] * sizes["r"]


def test_flops_follow_what_trains() -> None:
    chain, sizes = CHAINS["aflora"], {"d_in": 10, "d_out": 20, "r": 2}
    whole, frozen = flops_per_token(chain, sizes), flops_per_token(chain, sizes, ["d", "b"])
    assert (whole.forward, whole.input_grad, whole.weight_grad) == (120, 120, 120)
    assert (frozen.forward, frozen.input_grad, frozen.weight_grad) == (120, 120, 0)
    assert frozen.vector == 4 * (2 + 20)
    lowest = flops_per_token(chain, sizes, ["b"], input_grad=False)
    assert (lowest.forward, lowest.input_grad, lowest.weight_grad, lowest.vector) == (120, 0, 0, 22 + 40)


# DeBERTaV3-base: 12 layers of four 768-wide attention projections and the two feed-forward ones
ATTENTION = [(768, 768)] * 4
FEED_FORWARD = [(768, 3072), (3072, 768)]


def count(method: str, r: int, attention: str, ffn: str) -> int:
    row = METHODS[method]
    chain = row.chain(row.settings(r=r))
    return 12 * sum(
        chain.parameter_count({"d_in": i, "d_out": o, "r": r}, names)
        for shapes, names in ((ATTENTION, attention), (FEED_FORWARD, ffn))
        for i, o in shapes
    )


def test_counts_of_the_paper() -> None:
    assert count("aflora", 4, "db", "db") == 83_232
    assert count("aflora", 4, "db", "AdBb") == 451_872
    assert count("aflora", 4, "AdBb", "db") == 378_144
    assert count("aflora", 4, "AdBb", "AdBb") == 746_784
    assert count("lora", 8, "AB", "AB") == 1_327_104


def test_flops_of_the_paper() -> None:
    """MFLOP a token on DeBERTaV3-base: LoRA r=8 7.96, AFLoRA r=4 3.39 with feed-forward A and B training, then 2.65."""

    def total(method: str, r: int, attention: str, ffn: str) -> float:
        row = METHODS[method]
        chain = row.chain(row.settings(r=r))
        return 12e-6 * sum(
            flops_per_token(chain, {"d_in": i, "d_out": o, "r": r}, names).total
            for shapes, names in ((ATTENTION, attention), (FEED_FORWARD, ffn))
            for i, o in shapes
        )

    assert round(total("lora", 8, "AB", "AB"), 2) == 7.96
    assert round(total("aflora", 4, "db", "AdBb"), 2) == 3.39
    assert round(total("aflora", 4, "db", "db"), 2) == 2.65


def test_unknown_method_suggests_the_nearest() -> None:
    with pytest.raises(TapertuneError, match="unknown method 'aflroa': did you mean 'aflora'"):
        get_method("aflroa")


@pytest.mark.parametrize(
    ("method", "values", "message"),
    [
        ("aflora", {"r": 0}, "r is 0; it must be a positive whole number"),
        ("lora", {"r": -4}, "r is -4; it must be a positive whole number"),
        ("lora", {"r": True}, "r is True; it must be a positive whole number"),
        ("lora", {"lora_alpha": 0}, "lora_alpha is 0; it must be a positive number"),
        ("aflora", {"dropout": 1.0}, "dropout is 1.0; it must be a number from 0"),
        ("aflora", {"scaling": "alpha/sqrt"}, "unknown scaling 'alpha/sqrt': did you mean 'alpha/sqrt(r)'"),
        ("aflora", {"projection_scope": "atention"}, "did you mean 'attention'"),
        ("aflora", {"d_initial": float("nan")}, "d_initial is nan"),
    ],
)
def test_settings_check_themselves(method: str, values: dict, message: str) -> None:
    with pytest.raises(TapertuneError, match=re.escape(message)):
        METHODS[method].settings(**values)


def test_every_row_is_documented() -> None:
    import dataclasses

    for name, row in METHODS.items():
        assert name == row.name and row.summary and row.paper
        assert all(f.metadata["help"] for f in dataclasses.fields(row.settings))
        assert hasattr(row.settings(), "dropout")


def test_initialisation_of_aflora() -> None:
    row = METHODS["aflora"]
    chain = row.chain(row.settings(r=4))
    sizes = {"d_in": 600, "d_out": 500, "r": 4}
    made = {}
    for factor in chain:
        made[factor.name] = torch.empty(factor.shape(sizes))
        factor.init(made[factor.name])
    for name, fan_in in (("A", 600), ("B", 4)):
        bound = (6 / fan_in) ** 0.5
        assert made[name].abs().max() <= bound
        assert made[name].std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert (made["d"] == 0.1).all() and not made["b"].any()
