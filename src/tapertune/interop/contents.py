"""What a LoRA export holds: the update of each module as two matrices, cut and filled as was asked for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import TapertuneError, bad_value, nearest
from ..host import make_config
from .completion import complete
from .experts import one_by_one, parameter_of
from .exports import ExportForm, ModuleExport
from .layer_kinds import LINEAR, LayerKind
from .saved import SavedAdapter
from .shapes import BaseShapes
from .truncation import Pair, cuts, in_float32, relative_error, spectrum_of_delta, spectrum_of_product

_ROUNDING = 1e-6  # relative errors below are those of float32, not of a rank that was cut


@dataclass
class Contents:
    """What is to be written, and what is to be said of it.

    Attributes:
        adapter: that is exported.
        base: its base model, folder or name; None where it is not known.
        shapes: the base's; None where they are not to be had.
        rank: of all modules; None where each has its own.
        pairs: by module, in float32, the scaling in the second.
        saved: weights that go along whole.
        rows: of the report: modules with an update.
        zeros: modules written without one.
        left_out: modules not written, as they have none.
        notes: what a user should know, a line each.
        cut: whether an update lost more than rounding.
        kinds: what modules are that are no linear layers.
    """

    adapter: SavedAdapter
    base: str | None
    shapes: BaseShapes | None
    rank: int | None = None
    pairs: dict[str, Pair] = field(default_factory=dict)
    saved: dict[str, Tensor] = field(default_factory=dict)
    rows: list[ModuleExport] = field(default_factory=list)
    zeros: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cut: bool = False
    kinds: dict[str, LayerKind] = field(default_factory=dict)

    def kind(self, module: str) -> LayerKind:
        return self.kinds.get(module, LINEAR)

    @property
    def unlike_linear(self) -> tuple[str, str] | None:
        """A module that is no linear layer, and what it is; None where all are."""
        for module in self.pairs:
            if self.kind(module) is not LINEAR:
                return module, f"a {self.kind(module).type}"
            if parameter_of(self.adapter.config, module) is not None:
                return module, "one of stacked experts"
        return None

    @property
    def ranks(self) -> dict[str, int]:
        return {module: down.shape[0] for module, (down, _) in self.pairs.items()}

    @property
    def lossless(self) -> bool:
        return self.adapter.chain.linear and not self.cut

    @property
    def lost(self) -> float:
        """The largest relative error (Frobenius) of a module's update."""
        return max((row.error for row in self.rows), default=0.0)


def contents_of(
    adapter: SavedAdapter, form: ExportForm, shapes: BaseShapes | None, base: str | None, *, zeros: bool = True
) -> Contents:
    """The update of each module, cut and filled.

    Args:
        adapter: to export.
        form: ranks and errors that were asked for.
        shapes: the base's, where they are known.
        base: its name, for messages and the config.
        zeros: whether modules without an update are written, and with them the rest of each kind and group.

    Raises:
        TapertuneError: nothing to export, a rank out of range, an error out of reach, or an adapter of which the base
            has no module.
    """
    contents = Contents(adapter, base, shapes, saved=dict(adapter.extras))
    contents.kinds = {**({} if shapes is None else shapes.kinds), **adapter.kinds}
    if not adapter.chain.linear and not form.cuts:
        raise TapertuneError(
            f"{adapter.config.method} has no lossless LoRA form: say how large a relative error of a module's update"
            " may be (--max-error 0.01)"
        )
    largest = max(min(adapter.widths(module)) for module in adapter.modules)
    if form.rank is not None and form.rank > largest:
        raise bad_value("rank", form.rank, f"between 1 and {largest}, the rank of the adapter's largest module")
    if shapes is not None:
        _check_modules(contents, shapes)
    held = [module for module in adapter.modules if parameter_of(adapter.config, module) is not None]
    if held and form.ragged:
        raise bad_value("ragged", True, f"False for parameters that hold matrices ({held[0]}): they take one rank")
    if held and form.experts == "each":
        _part_experts(contents)
    for module in contents.adapter.modules:
        _add(contents, module, form)
    if not contents.pairs:
        raise TapertuneError("the adapter's update is zero in every module: there is nothing to export")
    if not form.ragged:
        _fill(contents, form, zeros)
    return contents


def cut_adapter(adapter: SavedAdapter, form: ExportForm) -> SavedAdapter:
    """A LoRA adapter with the updates that are left when the form has cut them, and the same weights saved whole.

    Raises:
        TapertuneError: as ``contents_of``.
    """
    contents = contents_of(adapter, form, None, None)
    kept = {module: down.shape[0] for module, (down, _) in contents.pairs.items()}
    config = make_config("lora", r=max(kept.values()), lora_alpha=max(kept.values()))
    kept_fields = ("layer_kinds", "trainable_token_indices")
    for name in ("task_type", "base_model_name_or_path", "revision", "auto_mapping", "modules_to_save", *kept_fields):
        setattr(config, name, getattr(adapter.config, name))
    modules = {module: {"A": down, "B": up} for module, (down, up) in contents.pairs.items()}
    return SavedAdapter(config, modules, adapter.extras)


def _part_experts(contents: Contents) -> None:
    """Has the contents hold the experts' matrices by themselves, under the names of checkpoints."""
    adapter, shapes = contents.adapter, contents.shapes
    if shapes is None:
        raise bad_value("experts", "each", "'stacked' where the base model, which tells names, is not known (--base)")
    split = one_by_one(adapter, shapes.held, shapes.model_type)
    widths = {name: sizes for name, sizes in shapes.widths.items() if name not in adapter.modules}
    widths |= {name: split.widths(name) for name in split.modules}
    contents.adapter, contents.shapes = split, dataclasses.replace(shapes, widths=widths)


def _check_modules(contents: Contents, shapes: BaseShapes) -> None:
    """Raises unless modules of the adapter fit into the base; notes those that do not."""
    adapter = contents.adapter
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


def _add(contents: Contents, module: str, form: ExportForm) -> None:
    adapter = contents.adapter
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


def _fill(contents: Contents, form: ExportForm, zeros: bool) -> None:
    """Gives all modules one rank, and adds those that a server asks for."""
    adapter, shapes = contents.adapter, contents.shapes
    rank = form.rounded(form.rank or max(row.rank for row in contents.rows))
    widths = {module: adapter.widths(module) for module in adapter.modules if zeros or module in contents.pairs}
    widths = complete(widths, shapes) if shapes is not None and zeros else widths
    contents.rank, contents.zeros = rank, sorted(set(widths) - set(contents.pairs))
    for module, (d_out, d_in) in widths.items():
        down, up = torch.zeros(rank, d_in), torch.zeros(d_out, rank)
        if module in contents.pairs:
            kept = contents.pairs[module][0].shape[0]
            down[:kept], up[:, :kept] = contents.pairs[module]
        contents.pairs[module] = down, up
