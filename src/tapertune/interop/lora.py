"""An adapter as a plain LoRA adapter, which needs no tapertune to load: for PEFT, llama.cpp or mlx-lm.

All modules have one rank, and no module of a kind is missing: then PEFT and every server read the same. ``ragged``
writes the smallest ranks and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..errors import TapertuneError
from ..files import check_free, whole_folder, write_text
from ..host import ChainLayer, adapted_parts
from ..host.module_names import ROOT
from .card import export_card
from .checkpoint import base_input_widths
from .comparison import Comparison, compare_logits, load_base
from .completion import unfused
from .contents import Contents, contents_of
from .exports import ExportForm, ExportReport
from .formats import Format, find_format
from .merging import write_base
from .saved import SavedAdapter, check, read_adapter, read_config
from .servers import RAGGED, Served, check_format, check_limits, find_server, saved_beside_note
from .shapes import BaseShapes, BaseUnknown, shapes_of_base, shapes_of_model
from .side_files import copy_side_files
from .trained_whole import without_copies

BASE = "base"
"""The folder within an export that has a base of its own."""


def export_lora(
    adapter_dir: str | Path,
    out_dir: str | Path,
    *,
    to: str = "lora",
    server: str | None = None,
    rank: int | None = None,
    energy: float | None = None,
    max_error: float | None = None,
    round_up: bool = False,
    ragged: bool = False,
    experts: str = "stacked",
    with_base: bool = False,
    base: str | Path | None = None,
    check: bool = False,
    max_difference: float | None = None,
) -> ExportReport:
    """Writes a saved adapter as a plain LoRA adapter, from its files alone.

    Exact up to float32 rounding for every method whose update is a product of factors, unless ``rank`` or ``energy``
    cuts it. An update under an elementwise map has no such form: there the singular value decomposition is cut at the
    smallest rank that meets ``max_error``, or as ``rank`` or ``energy`` says.

    All modules get one rank, the largest that is left: smaller ones are filled with zeros. Modules that are pruned,
    or missing in a layer or in a group that servers fuse (query, key, value; gate, up), are written as zeros, where
    the format is one for such servers. The base's config tells their widths; where it cannot be read, a note in the
    report says so.

    Args:
        adapter_dir: the adapter.
        out_dir: a new folder; it appears only when everything is written.
        to: the format: ``lora`` (PEFT's), ``gguf`` (llama.cpp's) or ``mlx`` (mlx-lm's).
        server: whose limits the export has to keep; see ``servers.SERVERS``.
        rank: the one rank. Updates of a larger one are cut by their singular values.
        energy: the part of each update's squared Frobenius norm that is kept at least, up to 1.
        max_error: largest relative error (Frobenius) of a module's update; required of methods without a lossless form,
            unless rank or energy is given.
        round_up: take the next of vLLM's ranks (1, 8, 16, 32, 64, 128, 256, 320, 512).
        ragged: the smallest form: each module its own rank, and no module without an update. Some servers misread it.
        experts: how the matrices of stacked experts are written: ``stacked``, as PEFT's ``target_parameters`` has them,
            or ``each`` by itself under the names of the model's checkpoints, gate and up apart.
        with_base: put weights that were trained whole into a copy of the base, ``out_dir/base``, and not into the
            adapter, which is for that base then.
        base: the base model, folder or name; default: the one that the adapter names.
        check: compare the logits of the base with the adapter to those of the base with the export, both loaded.
        max_difference: the largest difference of a logit that ``check``, which it implies, lets pass; by default what
            rounding and what was cut explain.

    Raises:
        TapertuneError: files that cannot be read, a value out of range, ``max_error`` missing or out of reach, nothing
            to export, an adapter of which the base has no module, one that the format or the server does not take, or
            logits that differ.
    """
    adapter_dir, out_dir = Path(adapter_dir), Path(out_dir)
    chosen = find_format(to)
    if server is not None:
        check_format(server, to)
    form = ExportForm(
        rank=rank, energy=energy, max_error=max_error, round_up=round_up, ragged=ragged, experts=experts,
        server=server, max_difference=max_difference,
    )  # fmt: skip
    check_free(out_dir)
    config = read_config(adapter_dir)
    origin = base or config.base_model_name_or_path
    adapter = without_copies(read_adapter(adapter_dir, base_input_widths(origin) if origin else None), origin)
    compared = check or max_difference is not None
    needed = compared or with_base or base is not None or server is not None or to != "lora"
    shapes, note = _base_shapes(adapter, origin, required=needed)
    contents = contents_of(adapter, form, shapes, str(origin) if origin else None, zeros=chosen.zeros)
    if note and not ragged:
        contents.notes.insert(0, note)
    return _Export(contents, chosen, form, to, adapter_dir, with_base and bool(adapter.extras), compared).write(out_dir)


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
    contents = contents_of(adapter, form, shapes_of_model(model), config.base_model_name_or_path or None)
    return _Export(contents, find_format("lora"), form, "lora", None, False, False).write(Path(out_dir))


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


class _Export:
    """One export.

    Args:
        contents: what to write.
        format: how.
        form: what was asked for.
        to: the format's name.
        adapter_dir: the adapter's folder; None for a model in memory.
        with_base: whether the base is written, with the adapter's whole weights in it.
        compared: whether logits are compared.
    """

    def __init__(
        self,
        contents: Contents,
        format: Format,
        form: ExportForm,
        to: str,
        adapter_dir: Path | None,
        with_base: bool,
        compared: bool,
    ) -> None:
        self.contents, self.format, self.form, self.to = contents, format, form, to
        self.adapter_dir, self.with_base, self.compared = adapter_dir, with_base, compared
        self.origin = contents.base

    def write(self, out: Path) -> ExportReport:
        contents = self.contents
        if self.with_base:
            contents.saved = {}
            contents.base = str(out / BASE)
        self.format.check(contents)
        self._check_server()
        if self.form.ragged and self.to == "lora":
            contents.notes.append(RAGGED)
        if contents.saved and self.form.server is None:
            contents.notes.append(saved_beside_note(contents.saved))
        with whole_folder(out) as folder:
            self.format.write(folder, contents)
            if self.with_base:
                assert self.origin is not None and self.adapter_dir is not None, "the base was found"
                contents.notes += write_base(self.origin, contents.adapter, self.adapter_dir, folder / BASE)
            if self.adapter_dir is not None:
                copy_side_files(self.adapter_dir, self.origin, folder, tokenizer=self.format.tokenizer)
            report = self._report(out, self._compare(folder) if self.compared else None)
            write_text(folder / "README.md", export_card(report))
        return report

    def _check_server(self) -> None:
        name, contents = self.form.server, self.contents
        if name is None:
            return
        assert contents.shapes is not None, "a server's limits need the base"
        model_class = getattr(contents.shapes.model_class, "__name__", "a module within another")
        check_limits(
            name, self.to, rank=max(contents.ranks.values()), ragged=contents.rank is None, modules=contents.pairs,
            saved=contents.saved, model=model_class,
        )  # fmt: skip

    def _compare(self, folder: Path) -> Comparison:
        contents = self.contents
        assert self.origin is not None and self.adapter_dir is not None and contents.shapes is not None
        model_class = contents.shapes.model_class
        base = str(folder / BASE) if self.with_base else self.origin

        def load_export() -> Any:
            return self.format.load(folder, contents, load_base(base, contents.adapter, model_class))

        comparison = compare_logits(self.adapter_dir, self.origin, contents.adapter, model_class, load_export)
        comparison.check(contents.lost, self.form.max_difference)
        return comparison

    def _report(self, out: Path, comparison: Comparison | None) -> ExportReport:
        contents, name = self.contents, self.form.server
        rank = max(contents.ranks.values())
        served = Served(base=contents.base or "BASE", out=str(out), rank=rank)
        return ExportReport(
            method=contents.adapter.config.method,
            lossless=contents.lossless,
            rank=contents.rank,
            modules=contents.rows,
            zeros=contents.zeros,
            left_out=contents.left_out,
            saved_beside=sorted(contents.saved),
            notes=contents.notes,
            comparison=comparison,
            out=out,
            to=self.to,
            base=contents.base,
            commands=tuple(find_server(name).commands[self.to](served)) if name else (),
        )
