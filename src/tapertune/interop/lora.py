"""An adapter as a plain PEFT LoRA adapter, which needs no tapertune to load.

The scaling is folded into ``lora_B``, and ``lora_alpha`` equals the rank, so that the scaling is 1. All modules have
one rank, and no module of a kind is missing: then PEFT and every server read the same. ``ragged`` writes the smallest
ranks and nothing else.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TapertuneError, bad_value, nearest
from ..files import check_free, whole_folder, write_json, write_text
from ..host import ChainLayer, adapted_parts
from ..host.module_names import ROOT
from .card import export_card
from .checkpoint import base_input_widths
from .comparison import compare_logits
from .completion import complete, target_names, unfused
from .experts import one_by_one, parameter_of, stacked_names, stacked_pair
from .exports import ExportForm, ExportReport, ModuleExport
from .folder import CONFIG, WEIGHTS
from .saved import SavedAdapter, check, read_adapter, read_config
from .servers import RAGGED, saved_beside_note, vllm_rank
from .shapes import BaseShapes, BaseUnknown, shapes_of_base, shapes_of_model
from .truncation import Pair, cuts, in_float32, relative_error, spectrum_of_delta, spectrum_of_product

_ROUNDING = 1e-6  # relative errors below are those of float32, not of a rank that was cut


@dataclass
class _Contents:
    """What is to be written: float32 pairs by module, rows of the report, and whether an update lost something."""

    base: str | None
    pairs: dict[str, Pair] = field(default_factory=dict)
    rows: list[ModuleExport] = field(default_factory=list)
    zeros: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    layers: dict[str, Pair] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    cut: bool = False


def export_lora(
    adapter_dir: str | Path,
    out_dir: str | Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    max_error: float | None = None,
    round_up: bool = False,
    ragged: bool = False,
    experts: str = "stacked",
    base: str | Path | None = None,
    check: bool = False,
) -> ExportReport:
    """Writes a saved adapter as a plain PEFT LoRA adapter, from its files alone.

    Exact up to float32 rounding for every method whose update is a product of factors, unless ``rank`` or ``energy``
    cuts it. An update under an elementwise map has no such form: there the singular value decomposition is cut at the
    smallest rank that meets ``max_error``, or as ``rank`` or ``energy`` says.

    All modules get one rank, the largest that is left: smaller ones are filled with zeros. Modules that are pruned,
    or missing in a layer or in a group that servers fuse (query, key, value; gate, up), are written as zeros. The
    base's config tells their widths; where it cannot be read, a note in the report says so.

    Args:
        adapter_dir: the adapter.
        out_dir: a new folder; it appears only when everything is written.
        rank: the one rank. Updates of a larger one are cut by their singular values.
        energy: the part of each update's squared Frobenius norm that is kept at least, up to 1.
        max_error: largest relative error (Frobenius) of a module's update; required of methods without a lossless form,
            unless rank or energy is given.
        round_up: take the next of vLLM's ranks (1, 8, 16, 32, 64, 128, 256, 320, 512).
        ragged: the smallest form: each module its own rank, and no module without an update. Some servers misread it.
        experts: how the matrices of stacked experts are written: ``stacked``, as PEFT's ``target_parameters`` has them,
            or ``each`` by itself under the names of the model's checkpoints, gate and up apart.
        base: the base model, folder or name; default: the one that the adapter names.
        check: compare the logits of the base with the adapter to those of the base with the export, both loaded.

    Raises:
        TapertuneError: files that cannot be read, a value out of range, ``max_error`` missing or out of reach, nothing
            to export, an adapter of which the base has no module, or logits that differ.
    """
    adapter_dir, out_dir = Path(adapter_dir), Path(out_dir)
    form = ExportForm(rank=rank, energy=energy, max_error=max_error, round_up=round_up, ragged=ragged, experts=experts)
    check_free(out_dir)
    config = read_config(adapter_dir)
    origin = base or config.base_model_name_or_path
    adapter = read_adapter(adapter_dir, base_input_widths(origin) if origin else None)
    shapes, note = _base_shapes(adapter, origin, required=base is not None or check)
    contents = _Contents(str(origin) if origin else None, notes=[note] if note and not ragged else [])
    return _export(adapter, out_dir, form, shapes, contents, adapter_dir if check else None)


def export_model_lora(
    model: nn.Module,
    out_dir: str | Path,
    *,
    adapter_name: str = "default",
    rank: int | None = None,
    energy: float | None = None,
    max_error: float | None = None,
    round_up: bool = False,
    ragged: bool = False,
    experts: str = "stacked",
) -> ExportReport:
    """Writes an adapter of a model in memory as a plain PEFT LoRA adapter; see ``export_lora``.

    Raises:
        TapertuneError: as for ``export_lora``; also when the model has no such adapter of tapertune's.
    """
    from peft import get_peft_model_state_dict

    form = ExportForm(rank=rank, energy=energy, max_error=max_error, round_up=round_up, ragged=ragged, experts=experts)
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
    contents = _Contents(config.base_model_name_or_path or None)
    return _export(adapter, Path(out_dir), form, shapes_of_model(model), contents, None)


def _base_shapes(
    adapter: SavedAdapter, origin: str | Path | None, required: bool
) -> tuple[BaseShapes | None, str | None]:
    """The base's shapes, or a note that they are not to be had."""
    note = "the adapter names no base model"
    if origin:
        try:
            return shapes_of_base(origin, adapter.modules, adapter.config.task_type, adapter.config.revision), None
        except BaseUnknown as error:
            if required:
                raise
            note = str(error)
    elif required:
        raise TapertuneError(f"{note}: name it (--base)")
    gaps = unfused(list(adapter.modules))
    missing = f" ({gaps[0]} is adapted and not all that servers fuse with it)" if gaps else ""
    return None, f"{note}: only the adapter's own modules are written{missing}; name the base model (--base)"


def _export(
    adapter: SavedAdapter,
    out: Path,
    form: ExportForm,
    shapes: BaseShapes | None,
    contents: _Contents,
    compared: Path | None,
) -> ExportReport:
    linear = adapter.chain.linear
    if not linear and form.max_error is form.rank is form.energy is None:
        raise TapertuneError(
            f"{adapter.config.method} has no lossless LoRA form: say how large a relative error of a module's update"
            " may be (--max-error 0.01)"
        )
    if shapes is not None:
        _check_modules(adapter, shapes, contents)
    held = [module for module in adapter.modules if parameter_of(adapter.config, module) is not None]
    if held and form.ragged:
        raise bad_value("ragged", True, f"False for parameters that hold matrices ({held[0]}): they take one rank")
    if held and form.experts == "each":
        adapter, shapes = _one_by_one(adapter, shapes)
    for module in adapter.modules:
        _add(contents, adapter, module, form)
    if not contents.pairs:
        raise TapertuneError("the adapter's update is zero in every module: there is nothing to export")
    if form.ragged:
        contents.notes.append(RAGGED)
    rank = None if form.ragged else _fill(contents, adapter, form, shapes)
    if adapter.extras:
        contents.notes.append(saved_beside_note(sorted(adapter.extras)))
    contents.layers = _as_layers(adapter, contents.pairs, shapes)
    config = _config(adapter, contents, rank, shapes)
    with whole_folder(out) as folder:
        _write(folder, adapter, contents, config)
        lossless = linear and not contents.cut
        comparison = None
        if compared is not None and contents.base is not None and shapes is not None:
            comparison = compare_logits(compared, folder, contents.base, adapter, shapes.model_class)
            comparison.check(lossless)
        report = ExportReport(
            method=adapter.config.method,
            lossless=lossless,
            rank=rank,
            modules=contents.rows,
            zeros=contents.zeros,
            left_out=contents.left_out,
            saved_beside=sorted(adapter.extras),
            notes=contents.notes,
            comparison=comparison,
            out=out,
        )
        write_text(folder / "README.md", export_card(report, contents.base, config))
    return report


def _one_by_one(adapter: SavedAdapter, shapes: BaseShapes | None) -> tuple[SavedAdapter, BaseShapes]:
    """An adapter with its experts' matrices by themselves, and the shapes that it is completed by."""
    if shapes is None:
        raise bad_value("experts", "each", "'stacked' where the base model, which tells names, is not known (--base)")
    split = one_by_one(adapter, shapes.held, shapes.model_type)
    widths = {name: sizes for name, sizes in shapes.widths.items() if name not in adapter.modules}
    widths |= {name: split.widths(name) for name in split.modules}
    return split, dataclasses.replace(shapes, widths=widths)


def _check_modules(adapter: SavedAdapter, shapes: BaseShapes, contents: _Contents) -> None:
    """Raises unless modules of the adapter fit into the base; notes those that do not."""
    missing = [module for module in adapter.modules if module not in shapes.widths]
    unlike = [m for m in adapter.modules if m in shapes.widths and adapter.widths(m) != shapes.widths[m]]
    reasons = []
    if missing:
        guess = nearest(missing[0], shapes.widths)
        reasons.append(f"it has no {missing[0]!r}" + (f"; the nearest is {guess!r}" if guess else ""))
    if unlike:
        ours, theirs = adapter.widths(unlike[0]), shapes.widths[unlike[0]]
        reasons.append(f"its {unlike[0]!r} has shape {theirs}, the adapter is for {ours}")
    count, base = len(missing) + len(unlike), contents.base or "the model"
    if count == len(adapter.modules):
        raise TapertuneError(f"none of the adapter's modules is in the base model {base}: {'; '.join(reasons)}")
    if count:
        contents.notes.append(f"{count} of the adapter's modules are not in the base model {base}: {reasons[0]}")


def _add(contents: _Contents, adapter: SavedAdapter, module: str, form: ExportForm) -> None:
    exact, stored = _cut(adapter, module, form)
    kept = stored[0].shape[0]
    if not kept:
        contents.left_out.append(module)
        return
    error = relative_error(stored, exact)
    if form.max_error is not None and error > form.max_error:
        reason = f"rank {kept}" if kept == form.rank or form.energy is not None else "float32"
        raise TapertuneError(
            f"{module}: {reason} cannot hold the update to a relative error of {form.max_error:g}, only of {error:.1e}"
        )
    before = _rank(adapter, module) if adapter.chain.linear else None
    contents.cut = contents.cut or (kept < exact[0].shape[0] and error > _ROUNDING)
    contents.pairs[module] = stored
    contents.rows.append(ModuleExport(module=module, rank_before=before, rank=kept, error=error))


def _cut(adapter: SavedAdapter, module: str, form: ExportForm) -> tuple[Pair, Pair]:
    """The module's update in float64, and what is stored of it."""
    linear = adapter.chain.linear
    if linear:
        exact = adapter.low_rank(module)
        own = exact[0].shape[0]
        if not own or (form.energy is None and (form.rank is None or own <= form.rank)):
            return exact, in_float32(exact)
        spectrum = spectrum_of_product(exact)
    else:
        spectrum = spectrum_of_delta(adapter.delta_rows(module, 0, adapter.widths(module)[0], torch.float64))
        exact = spectrum.keep(len(spectrum.s))
    if not len(spectrum.s):
        return exact, in_float32(exact)
    if form.energy is not None:
        return exact, in_float32(spectrum.keep(spectrum.rank_for((1 - form.energy) ** 0.5)))
    stored = in_float32(spectrum.keep(form.rank or len(spectrum.s)))
    if not linear and form.max_error is not None:
        fitting = (pair for pair in cuts(spectrum, form.max_error) if relative_error(pair, exact) <= form.max_error)
        smallest = next(fitting, stored)
        stored = min(smallest, stored, key=lambda pair: pair[0].shape[0])
    return exact, stored


def _rank(adapter: SavedAdapter, module: str) -> int:
    symbol = adapter.config.row.rank
    factor = next(f for f in adapter.chain if symbol in f.symbols)
    return adapter.modules[module][factor.name].shape[factor.symbols.index(symbol)]


def _fill(contents: _Contents, adapter: SavedAdapter, form: ExportForm, shapes: BaseShapes | None) -> int:
    """Gives all modules one rank, and adds those that a server asks for; returns the rank."""
    rank = form.rank or max(row.rank for row in contents.rows)
    rank = vllm_rank(rank) if form.round_up else rank
    widths = {module: adapter.widths(module) for module in adapter.modules}
    widths = complete(widths, shapes) if shapes is not None else widths
    contents.zeros = sorted(set(widths) - set(contents.pairs))
    for module, (d_out, d_in) in widths.items():
        down, up = torch.zeros(rank, d_in), torch.zeros(d_out, rank)
        if module in contents.pairs:
            kept = contents.pairs[module][0].shape[0]
            down[:kept], up[:, :kept] = contents.pairs[module]
        contents.pairs[module] = down, up
    return rank


def _as_layers(adapter: SavedAdapter, pairs: dict[str, Pair], shapes: BaseShapes | None) -> dict[str, Pair]:
    """The pairs by the layers that PEFT has for them: those of one parameter stacked."""
    layers, stacks = {}, dict[str, dict[int, Pair]]()
    for module, pair in pairs.items():
        place = parameter_of(adapter.config, module)
        if place is None:
            layers[module] = pair
        else:
            stacks.setdefault(place[0], {})[place[1]] = pair
    names = stacked_names(stacks, {} if shapes is None else shapes.held)
    return layers | {names[path]: stacked_pair(stack) for path, stack in stacks.items()}


def _write(folder: Path, adapter: SavedAdapter, contents: _Contents, config: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    state: dict[str, Tensor] = {ROOT + name: tensor.clone().contiguous() for name, tensor in adapter.extras.items()}
    for module, (down, up) in contents.layers.items():
        state[f"{ROOT}{module}.lora_A.weight"] = down.contiguous()
        state[f"{ROOT}{module}.lora_B.weight"] = up.contiguous()
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    write_json(folder / CONFIG, config)


def _config(adapter: SavedAdapter, contents: _Contents, rank: int | None, shapes: BaseShapes | None) -> dict[str, Any]:
    """The fields that every version of PEFT's LoRA knows, and the version that wrote them, which later ones ask for."""
    import peft

    config = adapter.config
    held = {m: place for m in contents.pairs if (place := parameter_of(config, m)) is not None}
    ranks = {module: down.shape[0] for module, (down, _) in contents.pairs.items() if module not in held}
    largest = max(down.shape[0] for down, _ in contents.pairs.values())
    # PEFT takes the first pattern that a module's path ends with: the longer of two must come first, and each have one
    ordered = sorted(ranks, key=lambda module: (-len(module), module))
    pattern = {module: ranks[module] for module in ordered} if len(set(ranks.values())) > 1 else {}
    return {
        "peft_type": "LORA",
        "peft_version": peft.__version__,
        "task_type": getattr(config.task_type, "value", config.task_type),
        "base_model_name_or_path": config.base_model_name_or_path or contents.base,
        "revision": config.revision,
        "inference_mode": True,
        "r": largest,
        "lora_alpha": largest,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": shapes is not None and shapes.transposed,
        "target_modules": sorted(ranks) if rank is None else target_names(ranks, shapes),
        **({"target_parameters": sorted({path for path, _ in held.values()})} if held else {}),
        "modules_to_save": config.modules_to_save if adapter.extras else None,
        "rank_pattern": pattern,
        "alpha_pattern": dict(pattern),
        "init_lora_weights": True,
        "use_rslora": False,
    }
