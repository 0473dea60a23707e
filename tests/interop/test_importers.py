"""Files in the layouts that other code writes, made here of plain tensors; outputs against a forward written here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import AdaLoraConfig, LoraConfig, PeftModel, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import batch, tiny_bert
from torch import Tensor, nn

import tapertune
from tapertune.errors import TapertuneError
from tapertune.interop import FORMATS, export_lora, import_adapter

ROOT = "base_model.model."
LAYER = "encoder.layer.0"
WIDTHS = {"attention.self.query": (16, 16), "intermediate.dense": (32, 16), "output.dense": (16, 32)}  # d_out, d_in
Delta = Callable[[Tensor], Tensor]


class Toy(nn.Module):
    """A body and a head, with the names of a small encoder."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.deberta = nn.Module()
        for path, (d_out, d_in) in WIDTHS.items():
            self._put(f"{LAYER}.{path}", nn.Linear(d_in, d_out))
        self.pooler = nn.Module()
        self.pooler.dense = nn.Linear(16, 16)
        self.classifier = nn.Linear(16, 2)
        self.double()

    def _put(self, path: str, layer: nn.Module) -> None:
        owner = self.deberta
        *parents, last = path.split(".")
        for name in parents:
            if not hasattr(owner, name):
                setattr(owner, name, nn.Module())
            owner = getattr(owner, name)
        setattr(owner, last, layer)

    def forward(self, x: Tensor, deltas: dict[str, Delta] | None = None) -> Tensor:
        """``deltas`` are added to the layers' outputs: what each format's forward does, by the test."""
        for path in WIDTHS:
            layer = self.deberta.get_submodule(f"{LAYER}.{path}")
            x = torch.tanh(layer(x) + (deltas[path](x) if deltas else 0.0))
        return self.classifier(torch.tanh(self.pooler.dense(x)))


X = torch.linspace(-1, 1, 80, dtype=torch.float64).view(5, 16)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64) * 0.5


def full(path: str) -> str:
    return f"deberta.{LAYER}.{path}"


def trained_heads(model: Toy, *names: str) -> dict[str, Tensor]:
    """Heads as training left them, put into the model."""
    found = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.split(".")[0] in names:
                parameter.copy_(randn(*parameter.shape))
                found[name] = parameter.detach().clone()
    return found


def check(out: Path, expected: Tensor, **parts: Tensor) -> PeftModel:
    """The imported adapter on a fresh model; heads that the file did not hold are given as parts."""
    base = Toy()
    base.load_state_dict({key.replace("__", "."): value for key, value in parts.items()}, strict=False)
    model = PeftModel.from_pretrained(base, out, autocast_adapter_dtype=False).eval()
    torch.testing.assert_close(model(X), expected, rtol=1e-10, atol=1e-12)
    return model


def write_peft(folder: Path, state: dict[str, Tensor], bin: bool = False, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    if config:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    state = {key: tensor.clone() for key, tensor in state.items()}
    torch.save(state, folder / "adapter_model.bin") if bin else save_file(state, folder / "adapter_model.safetensors")
    return folder


# ---- AFLoRA ----------------------------------------------------------------------------------------------------------


def aflora(scale: float) -> tuple[dict[str, Tensor], Tensor]:
    """State of the vectors and matrices, and the outputs at this scale."""
    torch.manual_seed(1)
    model, state, deltas = Toy(), {}, {}
    for path, (d_out, d_in) in WIDTHS.items():
        a, d, b, db = randn(4, d_in), randn(4), randn(d_out, 4), randn(d_out)
        key = f"{ROOT}{full(path)}"
        state |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b, f"{key}.lora_d": d, f"{key}.lora_db": db}
        deltas[path] = lambda x, a=a, d=d, b=b, db=db: scale * (((x @ a.T) * d) @ b.T) * db
    state |= {f"{ROOT}{name}": value for name, value in trained_heads(model, "classifier").items()}
    return state, model(X, deltas).detach()


PEFT_0_4 = {
    "peft_type": "LORA", "task_type": None, "base_model_name_or_path": "microsoft/deberta-v3-base", "r": 4,
    "lora_alpha": 16, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
    "target_modules": ["query", "dense"], "modules_to_save": ["classifier"], "init_lora_weights": True,
}  # fmt: skip


def test_aflora_glue(tmp_path: Path) -> None:
    state, expected = aflora(1.0)  # whatever alpha and r the config names
    path = write_peft(tmp_path / "in", state, bin=True, **PEFT_0_4)
    report = import_adapter(path, tmp_path / "out")
    assert (report.format, report.method) == ("aflora-glue", "aflora")
    (warning,) = report.warnings
    assert "the pooler is not in the file" in warning
    model = check(tmp_path / "out", expected)
    assert model.peft_config["default"].base_model_name_or_path == "microsoft/deberta-v3-base"


@pytest.mark.parametrize("alpha", [None, 12.0])
def test_aflora_gsm8k(alpha: float | None, tmp_path: Path) -> None:
    state, expected = aflora((alpha or 64) / 4)
    path = write_peft(tmp_path / "in", state, **{**PEFT_0_4, "lora_type": "aflora", "lora_alpha": 64})
    report = import_adapter(path, tmp_path / "out", alpha=alpha)
    assert report.format == "aflora-gsm8k"
    check(tmp_path / "out", expected)


def test_aflora_without_a_config_is_ambiguous(tmp_path: Path) -> None:
    state, _ = aflora(1.0)
    path = write_peft(tmp_path / "in", state)
    with pytest.raises(TapertuneError, match=r"several layouts.*--format aflora-glue.*--format aflora-gsm8k"):
        import_adapter(path, tmp_path / "out")
    with pytest.raises(TapertuneError, match="aflora-gsm8k files do not hold lora_alpha: give --alpha"):
        import_adapter(path, tmp_path / "out", format="aflora-gsm8k")
    assert not (tmp_path / "out").exists()
    for format, alpha, scale in (("aflora-glue", None, 1.0), ("aflora-gsm8k", 6.0, 1.5)):
        report = import_adapter(path, tmp_path / format, format=format, alpha=alpha, base_model="some/base")
        assert not [w for w in report.warnings if "base model" in w]
        check(tmp_path / format, aflora(scale)[1])


# ---- loralib: AdaLoRA and LoRA^2 -------------------------------------------------------------------------------------


def loralib(inner: int | None, r: int = 3, alpha: float = 32) -> tuple[dict[str, Tensor], Tensor]:
    """A full checkpoint, as Trainer of those forks saves it, and the outputs. ``inner`` is k of LoRA^2."""
    torch.manual_seed(2)
    model, deltas = Toy(), {}
    trained_heads(model, "pooler", "classifier")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for path, (d_out, d_in) in WIDTHS.items():
        e = randn(r, 1)
        e[0] = 0.0
        if inner is None:
            a, b = randn(r, d_in), randn(d_out, r)
            tensors = {"lora_A": a, "lora_E": e, "lora_B": b}
            product = lambda x, a=a, e=e, b=b: x @ (a * e).T @ b.T  # noqa: E731
        else:
            a, b, aa, bb = randn(inner, d_in), randn(r, inner), randn(inner, r), randn(d_out, inner)
            tensors = {"lora_A": a, "lora_B": b, "lora_E": e, "lora_aa": aa, "lora_bb": bb}
            m = a.T @ b.T @ torch.diag(e[:, 0]) @ aa.T @ bb.T  # the bracket that the released forward builds
            product = lambda x, m=m: x @ m  # noqa: E731
        state |= {f"{full(path)}.{name}": tensor for name, tensor in tensors.items()}
        state[f"{full(path)}.ranknum"] = torch.tensor([float(r)], dtype=torch.float64)
        deltas[path] = lambda x, product=product: product(x) * alpha / (r + 1e-5)
    return state, model(X, deltas).detach()


@pytest.mark.parametrize(("inner", "format"), [(None, "loralib-adalora"), (2, "loralib-lora2"), (8, "loralib-lora2")])
def test_loralib_checkpoints(inner: int | None, format: str, tmp_path: Path) -> None:
    state, expected = loralib(inner)
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(TapertuneError, match=f"{format} files do not hold lora_alpha: give --alpha"):
        import_adapter(tmp_path, tmp_path / "out")
    report = import_adapter(tmp_path, tmp_path / "out", alpha=32)
    assert report.format == format
    assert sorted(report.adapter.extras) == [
        f"{n}.{p}" for n in ("classifier", "pooler.dense") for p in ("bias", "weight")
    ]
    assert any("base weights in the file are left out" in w for w in report.warnings)
    check(tmp_path / "out", expected)


@pytest.mark.parametrize("inner", [None, 4])
def test_loralib_state_dict_without_ranknum(inner: int | None, tmp_path: Path) -> None:
    """What ``loralib.lora_state_dict`` keeps: no ranknum, no head."""
    state, expected = loralib(inner)
    heads = {key.replace(".", "__"): t for key, t in state.items() if key.split(".")[0] in ("pooler", "classifier")}
    torch.save({"state_dict": {k: t for k, t in state.items() if "lora_" in k}}, tmp_path / "lora.pt")
    report = import_adapter(tmp_path / "lora.pt", tmp_path / "out", alpha=32)
    text = "\n".join(report.warnings)
    assert "the initial rank is taken from lora_E, 3" in text
    assert "holds no head" in text
    assert "base model is not recorded" in text
    check(tmp_path / "out", expected, **heads)


def test_loralib_ranks_that_disagree(tmp_path: Path) -> None:
    state, _ = loralib(None)
    key = full("output.dense")
    torch.save(state | {f"{key}.ranknum": torch.tensor([5.0])}, tmp_path / "a.bin")
    with pytest.raises(TapertuneError, match=r"ranknum is \[3, 5\], lora_E has 3 rows"):
        import_adapter(tmp_path / "a.bin", tmp_path / "out", alpha=32)
    torch.save(state | {f"{key}.lora_E": randn(2, 1)}, tmp_path / "b.bin")
    with pytest.raises(TapertuneError, match="the scaling needs one initial rank"):
        import_adapter(tmp_path / "b.bin", tmp_path / "out", alpha=32)
    torch.save(state | {f"{key}.lora_A": randn(2, 16)}, tmp_path / "c.bin")
    with pytest.raises(TapertuneError, match=r"output.dense: E has shape \(3,\), where A makes init_r 2"):
        import_adapter(tmp_path / "c.bin", tmp_path / "out", alpha=32)
    torch.save({k: t for k, t in state.items() if k != f"{key}.lora_B"}, tmp_path / "d.bin")
    with pytest.raises(TapertuneError, match=r"output.dense.lora_B is missing"):
        import_adapter(tmp_path / "d.bin", tmp_path / "out", alpha=32)


# ---- LoRAN -----------------------------------------------------------------------------------------------------------

MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "Sin": lambda x: 5e-4 * x * torch.sin(1e3 * x) + x,
    "Cos": lambda x: x * torch.cos(1e4 * x) + x,
    "Gaussian": lambda x: 0.5 * x * torch.exp(-(x**2)),
    "Identity": lambda x: x,
    "Relu": F.relu,
    "Sigmoid": torch.sigmoid,
    "Silu": F.silu,
    "Swish": lambda x: x * torch.sigmoid(25 * x),
    "Tanh": torch.tanh,
}


def mlora(activation: str, inner: list[int], with_p: bool, with_b: bool) -> tuple[dict[str, Tensor], Tensor]:
    torch.manual_seed(3)
    model, state, deltas, f = Toy(), {}, {}, MAPS[activation]
    for path, (d_out, d_in) in WIDTHS.items():
        widths = [4, *(inner if with_p else [d_in])]
        ends = [*widths[2:], d_in]
        a, b = randn(widths[0], widths[1]), randn(d_out, widths[0])
        ps = [randn(n, m) for n, m in zip(widths[1:], ends, strict=True)] if with_p else []
        bs = [randn(m, 1) for m in ends] if with_b else []
        m = (b @ a).T  # (r1, d_out), as there
        for i in range(len(widths) - 1):
            m = f(m)
            m = ps[i].T @ m if with_p else m
            m = m + bs[i] if with_b else m
        key = f"{ROOT}{full(path)}"
        state |= {f"{key}.mlora_A": a, f"{key}.mlora_B": b}
        state |= {f"{key}.mlora_P_{i}": p for i, p in enumerate(ps, 1)}
        state |= {f"{key}.mlora_b_{i}": row for i, row in enumerate(bs, 1)}
        deltas[path] = lambda x, m=m: x @ m * (16 / 4)
    return state, model(X, deltas).detach()


def mlora_config(activation: str, r: list[int]) -> dict[str, Any]:
    return {
        "peft_type": "MLORA", "r": r, "mlora_af": activation, "mlora_af_sin_A": 5e-4, "mlora_af_sin_omega": 1000.0,
        "mlora_alpha": 16, "mlora_dropout": 0.2, "bias": "none", "base_model_name_or_path": "x", "task_type": None,
        "target_modules": ["dense", "query"], "modules_to_save": None,
    }  # fmt: skip


@pytest.mark.parametrize("activation", MAPS)
@pytest.mark.parametrize("parts", [0, 3])
def test_mlora(activation: str, parts: int, tmp_path: Path) -> None:
    state, expected = mlora(activation, [], False, False)
    path = write_peft(tmp_path / "in", state, bin=True, **mlora_config(activation, [4, 16]))
    if parts:
        content = (path / "adapter_model.bin").read_bytes()
        (path / "adapter_model.bin").unlink()
        step = -(-len(content) // parts)
        for i in range(parts):
            (path / f"adapter_model.bin.a{'abc'[i]}").write_bytes(content[i * step : (i + 1) * step])
    report = import_adapter(path, tmp_path / "out")
    assert (report.format, report.method, report.warnings) == ("loran-mlora", "loran", [])
    check(tmp_path / "out", expected)


@pytest.mark.parametrize(("inner", "with_b"), [([5], False), ([5], True), ([5, 7], True), ([5, 6, 7], False)])
def test_mlora_with_p_and_b(inner: list[int], with_b: bool, tmp_path: Path) -> None:
    state, expected = mlora("Sigmoid", inner, True, with_b)
    path = write_peft(tmp_path / "in", state, **mlora_config("Sigmoid", [4, *inner]))
    import_adapter(path, tmp_path / "out")
    check(tmp_path / "out", expected)


def test_mlora_with_b_alone(tmp_path: Path) -> None:
    state, expected = mlora("Tanh", [], False, True)
    import_adapter(write_peft(tmp_path / "in", state, **mlora_config("Tanh", [4, 16])), tmp_path / "out")
    check(tmp_path / "out", expected)


def test_mlora_that_cannot_be_read(tmp_path: Path) -> None:
    state, _ = mlora("Sin", [], False, False)
    path = write_peft(tmp_path / "a", state, **mlora_config("Sin", [4, 16, 16]))
    with pytest.raises(TapertuneError, match="2 maps without P between them"):
        import_adapter(path, tmp_path / "out")
    path = write_peft(tmp_path / "b", state, **mlora_config("Sinus", [4, 16]))
    with pytest.raises(TapertuneError, match="unknown mlora_af 'Sinus'; known: Sin, Cos"):
        import_adapter(path, tmp_path / "out")
    path = write_peft(tmp_path / "c", state, **mlora_config("Sin", [8, 16]))
    with pytest.raises(TapertuneError, match=r"r = \[8, 16\], the tensors begin with rank 4"):
        import_adapter(path, tmp_path / "out")
    path = write_peft(tmp_path / "d", state)
    with pytest.raises(TapertuneError, match=r"loran-mlora needs 'r', which only its adapter_config\.json holds"):
        import_adapter(path, tmp_path / "out")
    state[f"{ROOT}{full('output.dense')}.mlora_embedding_A"] = randn(2, 2)
    path = write_peft(tmp_path / "e", state, **mlora_config("Sin", [4, 16]))
    with pytest.raises(TapertuneError, match="mlora_embedding_A is nothing that can be imported"):
        import_adapter(path, tmp_path / "out")


def test_parts_that_are_not_whole(tmp_path: Path) -> None:
    state, _ = mlora("Sin", [], False, False)
    path = write_peft(tmp_path / "in", state, bin=True, **mlora_config("Sin", [4, 16]))
    content = (path / "adapter_model.bin").read_bytes()
    (path / "adapter_model.bin").unlink()
    (path / "adapter_model.bin.aa").write_bytes(content[:1000])
    with pytest.raises(TapertuneError, match="damaged, or its last part is missing"):
        import_adapter(path, tmp_path / "out")
    (path / "adapter_model.bin.ac").write_bytes(content[2000:])
    with pytest.raises(TapertuneError, match=r"adapter_model.bin is in parts, and part \.ab is missing"):
        import_adapter(path / "adapter_model.bin", tmp_path / "out")
    (path / "adapter_model.bin.ab").write_bytes(content[1000:2000])
    for named in ("adapter_model.bin", "adapter_model.bin.aa"):
        import_adapter(path / named, tmp_path / named)


# ---- SoRA ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recorded", [True, False])
def test_sora(recorded: bool, tmp_path: Path) -> None:
    torch.manual_seed(4)
    model, state, deltas = Toy(), {}, {}
    state |= trained_heads(model, "pooler", "classifier")
    for path, (d_out, d_in) in WIDTHS.items():
        a, b, gate = randn(4, d_in), randn(d_out, 4), randn(1, 4)
        gate[0, 1] = 0.0
        state |= {f"{full(path)}.lora.lora_A": a, f"{full(path)}.lora.lora_B": b, f"{full(path)}.lora.gate": gate}
        deltas[path] = lambda x, a=a, b=b, gate=gate: (((x @ a.T) * gate) @ b.T) * (16 / 4)
    torch.save(state, tmp_path / "pytorch_model.bin")
    if recorded:
        (tmp_path / "config.json").write_text(json.dumps({"lora_r": 4, "lora_alpha": 16}))
    else:
        with pytest.raises(TapertuneError, match=r"sora files do not hold lora_alpha: give --alpha \(16 in"):
            import_adapter(tmp_path, tmp_path / "out")
    report = import_adapter(tmp_path, tmp_path / "out", alpha=None if recorded else 16)
    assert (report.format, report.method) == ("sora", "sora")
    check(tmp_path / "out", model(X, deltas).detach())
    exported = export_lora(tmp_path / "out", tmp_path / "lora")
    assert {row.rank for row in exported.modules} == {3}


# ---- PEFT's own ------------------------------------------------------------------------------------------------------


def randomise(model: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "ranknum" not in name:  # which PEFT trains, but neither saves nor loads
                parameter.copy_(torch.randn_like(parameter) * 0.3)


def peft_model(folder: Path, config: Any, seed: int = 5) -> Tensor:
    """PEFT's own adapter, random, saved; its logits in float64."""
    model = get_peft_model(tiny_bert().double(), config, autocast_adapter_dtype=False).eval()
    randomise(model, seed)
    model.save_pretrained(folder)
    return model(**batch()).logits.detach()


def same_logits(out: Path, expected: Tensor) -> None:
    base = tiny_bert().double()
    model = PeftModel.from_pretrained(base, out, autocast_adapter_dtype=False).eval()
    torch.testing.assert_close(model(**batch()).logits, expected, rtol=1e-9, atol=1e-12)


TARGETS = ["query", "intermediate.dense", "output.dense"]


@pytest.mark.parametrize("rslora", [False, True])
def test_peft_lora(rslora: bool, tmp_path: Path) -> None:
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=TARGETS, modules_to_save=["classifier"], use_rslora=rslora,
        rank_pattern={"query": 2}, alpha_pattern={"intermediate.dense": 11}, lora_dropout=0.1,
    )  # fmt: skip
    expected = peft_model(tmp_path / "in", config)
    report = import_adapter(tmp_path / "in", tmp_path / "out")
    assert (report.format, report.method) == ("peft-lora", "lora")
    assert set(report.adapter.config.ranks.values()) == {2}
    base = tiny_bert().double()
    model = PeftModel.from_pretrained(base, tmp_path / "out", autocast_adapter_dtype=False).eval()
    torch.testing.assert_close(model(**batch()).logits, expected, rtol=1e-6, atol=1e-8)
    assert export_lora(tmp_path / "out", tmp_path / "again").worst <= 1e-6


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")  # PEFT's, at its own AdaLoRA
@pytest.mark.parametrize("pruned", [False, True])
def test_peft_adalora(pruned: bool, tmp_path: Path) -> None:
    config = AdaLoraConfig(
        init_r=4, target_r=2, lora_alpha=6, target_modules=TARGETS, modules_to_save=["classifier"], total_step=100
    )
    expected = peft_model(tmp_path / "in", config)
    if pruned:  # what its save does with rank_pattern: rows gone from the file, indicators in the config
        path, file = tmp_path / "in" / "adapter_config.json", tmp_path / "in" / "adapter_model.safetensors"
        state, pattern = load_file(file), {}
        keep = [True, False, True, False]
        for key in [k for k in state if k.endswith("query.lora_E")]:
            for name, axis in (("lora_A", 0), ("lora_E", 0), ("lora_B", 1)):
                whole = key.replace("lora_E", name)
                state[whole] = state[whole].index_select(axis, torch.tensor([0, 2]))
            pattern[key.removeprefix("base_model.model.")] = keep
        save_file(state, file)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"rank_pattern": pattern}))
        loaded = PeftModel.from_pretrained(tiny_bert().double(), tmp_path / "in", autocast_adapter_dtype=False).eval()
        expected = loaded(**batch()).logits.detach()
    report = import_adapter(tmp_path / "in", tmp_path / "out")
    assert (report.format, report.method) == ("peft-adalora", "adalora")
    assert set(report.adapter.config.ranks.values()) == ({2} if pruned else set())
    same_logits(tmp_path / "out", expected)


@pytest.mark.filterwarnings("ignore:Specified to not save vera_A:UserWarning")
@pytest.mark.parametrize("kept", ["seed", "not saved", "other"])
def test_peft_vera(kept: str, tmp_path: Path) -> None:
    config = VeraConfig(
        r=6, target_modules=TARGETS, modules_to_save=["classifier"], projection_prng_key=7, d_initial=0.2,
        save_projection=kept != "not saved",
    )  # fmt: skip
    model = get_peft_model(tiny_bert().double(), config, autocast_adapter_dtype=False).eval()
    randomise(model, 6)
    projections = [t for n, t in model.named_buffers() if ".vera_A" in n or ".vera_B" in n]
    assert projections
    if kept == "other":
        for tensor in {t.data_ptr(): t for t in projections}.values():
            tensor.mul_(1.5)
    model.save_pretrained(tmp_path / "in")
    expected = model(**batch()).logits.detach()
    report = import_adapter(tmp_path / "in", tmp_path / "out")
    assert (report.format, report.method) == ("peft-vera", "elora")
    assert report.adapter.config.settings().save_projection == (kept == "other")
    same_logits(tmp_path / "out", expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"use_dora": True}, "with use_dora is not plain"), ({"lora_alpha": None}, "give --alpha")],
)
def test_peft_lora_that_is_not_plain(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    state = {f"{ROOT}fc.lora_A.weight": randn(2, 4), f"{ROOT}fc.lora_B.weight": randn(4, 2)}
    path = write_peft(tmp_path / "in", state, **{"peft_type": "LORA", "r": 2, "lora_alpha": 2, **fields})
    with pytest.raises(TapertuneError, match=message):
        import_adapter(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("emb.lora_embedding_A", (2, 4), "lora_embedding_A is nothing"),
        ("fc.lora_B.bias", (4,), "lora_B.bias is nothing|only linear layers"),
        ("conv.lora_A.weight", (2, 4, 3, 3), "only linear layers are read"),
    ],
)
def test_peft_lora_of_other_layers(key: str, shape: tuple[int, ...], message: str, tmp_path: Path) -> None:
    state = {f"{ROOT}fc.lora_A.weight": randn(2, 4), f"{ROOT}fc.lora_B.weight": randn(4, 2), ROOT + key: randn(*shape)}
    path = write_peft(tmp_path / "in", state, peft_type="LORA", r=2, lora_alpha=2)
    with pytest.raises(TapertuneError, match=message):
        import_adapter(path, tmp_path / "out")


# ---- what cannot be told, or must not be read ------------------------------------------------------------------------


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must not run",)


def test_pickles_that_hold_code_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"fc.lora_E": torch.ones(2, 1), "x": Payload()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(TapertuneError, match="holds more than tensors and is not read"):
        import_adapter(tmp_path, tmp_path / "out", alpha=1)
    assert "must not run" not in capsys.readouterr().out


def test_files_that_are_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(TapertuneError, match="nothing to import at"):
        import_adapter(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(TapertuneError, match="holds no weights"):
        import_adapter(tmp_path, tmp_path / "out")
    (tmp_path / "a.bin").write_bytes(b"not a checkpoint")
    with pytest.raises(TapertuneError, match=r"a\.bin"):
        import_adapter(tmp_path / "a.bin", tmp_path / "out")
    torch.save({"epoch": 3}, tmp_path / "b.bin")
    with pytest.raises(TapertuneError, match="no state dict"):
        import_adapter(tmp_path / "b.bin", tmp_path / "out")
    with pytest.raises(TapertuneError, match=r"several files of weights \(a.bin, b.bin\): name one"):
        import_adapter(tmp_path, tmp_path / "out")
    torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "c.bin")
    with pytest.raises(TapertuneError, match=r"no known layout \(first keys: fc.weight\); known: aflora-glue"):
        import_adapter(tmp_path / "c.bin", tmp_path / "out")
    with pytest.raises(TapertuneError, match="unknown format 'afloraglue': did you mean 'aflora-glue'"):
        import_adapter(tmp_path / "c.bin", tmp_path / "out", format="afloraglue")
    for format in FORMATS:
        with pytest.raises(TapertuneError, match=f"no tensor of {format}"):
            import_adapter(tmp_path / "c.bin", tmp_path / "out", format=format)
    assert not (tmp_path / "out").exists()


def test_ours_need_no_import(tmp_path: Path) -> None:
    config = tapertune.make_config("lora", r=2, target_modules=TARGETS)
    get_peft_model(tiny_bert(), config).save_pretrained(tmp_path / "in")
    with pytest.raises(TapertuneError, match="one of tapertune's adapters already"):
        import_adapter(tmp_path / "in", tmp_path / "out")


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    state, _ = loralib(None)
    state[f"{full('output.dense')}.lora_A"][0, 0] = float("nan")
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(TapertuneError, match=r"output.dense: A holds values that are not finite"):
        import_adapter(tmp_path, tmp_path / "out", alpha=32)


def test_settings_out_of_range(tmp_path: Path) -> None:
    state, _ = loralib(None)
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(TapertuneError, match="lora_alpha is -1"):
        import_adapter(tmp_path, tmp_path / "out", alpha=-1)
