"""An adapter as a plain PEFT LoRA adapter, which needs no tapertune to load.

The scaling is folded into ``lora_B`` and each module's ``lora_alpha`` equals its rank, so that PEFT's scaling is 1 in
every module. Servers that use one scaling for all modules (``lora_alpha / r`` of the config) come to the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TapertuneError, bad_value
from ..host import ChainLayer, adapted_parts
from ..host.naming import ROOT
from .checkpoint import base_input_widths
from .folder import check_free, new_folder, write_json
from .saved import CONFIG, WEIGHTS, SavedAdapter, check, read_adapter, read_config


@dataclass(frozen=True, kw_only=True)
class ModuleExport:
    """One module: its rank before and after, and the relative error (Frobenius) of the exported update."""

    module: str
    rank_before: int | None
    rank: int
    error: float


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export wrote. ``left_out`` names the modules whose update is zero; they need no LoRA."""

    method: str
    lossless: bool
    modules: list[ModuleExport]
    left_out: list[str]
    saved_beside: list[str]
    out: Path

    @property
    def worst(self) -> float:
        return max(m.error for m in self.modules)


def export_lora(
    adapter_dir: str | Path, out_dir: str | Path, *, max_error: float | None = None, base: str | Path | None = None
) -> ExportReport:
    """Writes a saved adapter as a plain PEFT LoRA adapter, from its files alone.

    Exact up to float32 rounding for every method whose update is a product of factors. An update under an elementwise
    map has no such form: there the singular value decomposition is cut at the smallest rank that meets ``max_error``.

    Args:
        adapter_dir: the adapter.
        out_dir: a new folder; it appears only when everything is written.
        max_error: largest relative error (Frobenius) of a module's update, for methods without a lossless form.
        base: the base model, folder or name; asked only for widths, where the projections are shared by all modules.

    Raises:
        TapertuneError: files that cannot be read, ``max_error`` missing or out of reach, nothing to export.
    """
    adapter_dir, out_dir = Path(adapter_dir), Path(out_dir)
    check_free(out_dir)
    config = read_config(adapter_dir)
    base = base or config.base_model_name_or_path
    return _export(read_adapter(adapter_dir, base_input_widths(base) if base else None), out_dir, max_error)


def export_model_lora(
    model: nn.Module, out_dir: str | Path, *, adapter_name: str = "default", max_error: float | None = None
) -> ExportReport:
    """Writes an adapter of a model in memory as a plain PEFT LoRA adapter; see ``export_lora``.

    Raises:
        TapertuneError: as for ``export_lora``; also when the model has no such adapter of tapertune's.
    """
    from peft import get_peft_model_state_dict

    check_free(Path(out_dir))
    part, *others = adapted_parts(model, adapter_name)
    if others:
        raise TapertuneError(
            f"the model has adapters {adapter_name!r} in {part.path!r} and {others[0].path!r}: export one of them"
        )
    model, config = part.module, part.config
    layers = [m for m in model.modules() if isinstance(m, ChainLayer) and adapter_name in m.chains]
    modules = {
        layer.module_path: {name: t.detach().cpu() for name, t in layer.tensors(adapter_name).items()}
        for layer in layers
    }
    state = get_peft_model_state_dict(model, adapter_name=adapter_name)
    extras = {k.removeprefix(ROOT): t.detach().cpu() for k, t in state.items() if config.row.prefix not in k}
    adapter = SavedAdapter(config, modules, extras)
    check(adapter, "the model")
    return _export(adapter, Path(out_dir), max_error, fan_in_fan_out=any(layer.fan_in_fan_out for layer in layers))


def _export(adapter: SavedAdapter, out: Path, max_error: float | None, fan_in_fan_out: bool = False) -> ExportReport:
    linear = adapter.chain.linear
    if max_error is not None and not 0 < max_error < 1:
        raise bad_value("max_error", max_error, "between 0 and 1")
    if not linear and max_error is None:
        raise TapertuneError(
            f"{adapter.config.method} has no lossless LoRA form: say how large a relative error of a module's update"
            " may be (--max-error 0.01)"
        )
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    rows: list[ModuleExport] = []
    left_out = []
    for module in adapter.modules:
        (down, up), error = _lossless(adapter, module) if linear else _truncated(adapter, module, max_error or 0.0)
        if not down.shape[0]:
            left_out.append(module)
            continue
        pairs[module] = (down, up)
        before = _rank(adapter, module) if linear else None
        rows.append(ModuleExport(module=module, rank_before=before, rank=down.shape[0], error=error))
    if not pairs:
        raise TapertuneError("the adapter's update is zero in every module: there is nothing to export")
    with new_folder(out) as folder:
        _write(folder, adapter, pairs, fan_in_fan_out)
    return ExportReport(
        method=adapter.config.method,
        lossless=linear,
        modules=rows,
        left_out=left_out,
        saved_beside=sorted(adapter.extras),
        out=out,
    )


def _rank(adapter: SavedAdapter, module: str) -> int:
    symbol = adapter.config.row.rank
    factor = next(f for f in adapter.chain if symbol in f.symbols)
    return adapter.modules[module][factor.name].shape[factor.symbols.index(symbol)]


def _lossless(adapter: SavedAdapter, module: str) -> tuple[tuple[Tensor, Tensor], float]:
    down, up = adapter.low_rank(module)
    stored = down.float(), up.float()
    exact = _product_norm(up, down)
    # the difference of two products as one product: thin, whatever the module's widths
    difference = _product_norm(torch.cat([up, stored[1].double()], 1), torch.cat([down, -stored[0].double()]))
    return stored, difference / exact if exact else 0.0


def _product_norm(up: Tensor, down: Tensor) -> float:
    """The Frobenius norm of ``up @ down`` without building it."""
    if not down.shape[0]:
        return 0.0
    return (torch.linalg.qr(up).R @ torch.linalg.qr(down.T).R.T).norm().item()


def _truncated(adapter: SavedAdapter, module: str, max_error: float) -> tuple[tuple[Tensor, Tensor], float]:
    delta = adapter.delta_rows(module, 0, adapter.widths(module)[0], torch.float64)
    whole = delta.norm().item()
    if not whole:
        return (delta[:0].float(), delta[:, :0].float()), 0.0
    u, s, v = torch.linalg.svd(delta, full_matrices=False)
    tails = s.square().flip(0).cumsum(0).flip(0).sqrt() / whole  # tails[k]: the error when the first k are kept
    first = int((tails > max_error).sum())
    for rank in range(first, len(s) + 1):
        root = s[:rank].sqrt()
        down, up = (root[:, None] * v[:rank]).float(), (u[:, :rank] * root).float()
        error = (up.double() @ down.double() - delta).norm().item() / whole
        if error <= max_error:
            return (down, up), error
    raise TapertuneError(f"{module}: float32 cannot hold the update to a relative error of {max_error:g}")


def _write(folder: Path, adapter: SavedAdapter, pairs: dict[str, tuple[Tensor, Tensor]], fan_in_fan_out: bool) -> None:
    from safetensors.torch import save_file

    state = {ROOT + name: tensor.clone().contiguous() for name, tensor in adapter.extras.items()}
    for module, (down, up) in pairs.items():
        state[f"{ROOT}{module}.lora_A.weight"] = down.contiguous()
        state[f"{ROOT}{module}.lora_B.weight"] = up.contiguous()
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    ranks = {module: down.shape[0] for module, (down, _) in pairs.items()}
    write_json(folder / CONFIG, _config(adapter, ranks, fan_in_fan_out))


def _config(adapter: SavedAdapter, ranks: dict[str, int], fan_in_fan_out: bool) -> dict[str, Any]:
    """The fields that every version of PEFT's LoRA knows, and no others."""
    config, largest = adapter.config, max(ranks.values())
    # PEFT takes the first pattern that a module's path ends with: the longer of two must come first, and each have one
    ordered = sorted(ranks, key=lambda module: (-len(module), module))
    pattern = {module: ranks[module] for module in ordered} if len(set(ranks.values())) > 1 else {}
    return {
        "peft_type": "LORA",
        "task_type": getattr(config.task_type, "value", config.task_type),
        "base_model_name_or_path": config.base_model_name_or_path,
        "revision": config.revision,
        "inference_mode": True,
        "r": largest,
        "lora_alpha": largest,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": fan_in_fan_out,
        "target_modules": sorted(ranks),
        "modules_to_save": config.modules_to_save if adapter.extras else None,
        "rank_pattern": pattern,
        "alpha_pattern": dict(pattern),
        "init_lora_weights": True,
        "use_rslora": False,
    }
