"""Adapters that other code wrote, one small file a format, brought into tapertune's own form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import TapertuneError, unknown
from ...files import check_free, whole_folder
from ...host import make_config
from ...methods import Matrix
from ..folder import OURS
from ..saved import SavedAdapter, check, symbol_sizes_of, write_adapter
from . import adalora, aflora, lora, mlora, sora, vera
from .layout import Format, Imported
from .source import Source, load_source

FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        aflora.GLUE,
        aflora.GSM8K,
        adalora.ADALORA,
        adalora.LORA2,
        mlora.FORMAT,
        sora.FORMAT,
        adalora.PEFT,
        vera.FORMAT,
        lora.FORMAT,
    )
}


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What an import wrote; ``warnings`` names what the file did not hold."""

    format: str
    method: str
    adapter: SavedAdapter
    warnings: list[str]
    out: Path


def import_adapter(
    path: str | Path,
    out_dir: str | Path,
    *,
    format: str | None = None,
    alpha: float | None = None,
    base_model: str | None = None,
) -> ImportReport:
    """Writes another library's adapter as one of tapertune's, for ``PeftModel.from_pretrained`` after
    ``import tapertune``.

    Args:
        path: a file, or a folder of one adapter. Pickles are read with ``weights_only=True`` alone.
        out_dir: a new folder; it appears only when everything is written.
        format: one of ``FORMATS``; None tells it from the keys and the config.
        alpha: numerator of the scaling, for formats that do not record it.
        base_model: name of the base model, for files that do not record it.

    Raises:
        TapertuneError: no known layout or several, something missing that cannot be guessed, a damaged file.
    """
    path, out_dir = Path(path), Path(out_dir)
    check_free(out_dir)
    source = load_source(path, alpha)
    chosen = FORMATS[format] if format in FORMATS else _detect(source, format)
    adapter = _adapter(source, chosen.read(source), base_model)
    with whole_folder(out_dir) as folder:
        write_adapter(folder, adapter)
    return ImportReport(
        format=chosen.name, method=adapter.config.method, adapter=adapter, warnings=source.warnings, out=out_dir
    )


def _detect(source: Source, format: str | None) -> Format:
    if format is not None:
        raise unknown("format", format, FORMATS)
    if str(source.peft_type).startswith(OURS):
        raise TapertuneError(f"{source.path} is one of tapertune's adapters already")
    hits = [candidate for candidate in FORMATS.values() if candidate.matches(source)]
    if len(hits) == 1:
        return hits[0]
    if hits:
        options = " or ".join(f"--format {hit.name} ({hit.title})" for hit in hits)
        raise TapertuneError(f"{source.path} could be of several layouts, as its config is missing: say {options}")
    seen = f"type {source.peft_type}, " if source.peft_type else ""
    first = ", ".join(list(source.state)[:2]) or "none"
    raise TapertuneError(f"{source.path} has no known layout ({seen}first keys: {first}); known: {', '.join(FORMATS)}")


def _adapter(source: Source, imported: Imported, base_model: str | None) -> SavedAdapter:
    fields = imported.fields | ({"base_model_name_or_path": base_model} if base_model else {})
    if not fields.get("base_model_name_or_path"):
        source.warnings.append("the base model is not recorded: name it when loading, or now with --base-model")
    config = make_config(imported.method, **fields, target_modules=sorted(imported.modules), inference_mode=True)
    adapter = SavedAdapter(config, imported.modules, imported.extras)
    if any(isinstance(factor, Matrix) and factor.shared for factor in adapter.chain):
        _check_own_factors(source, adapter)
    else:
        check(adapter, str(source.path))
    return adapter


def _check_own_factors(source: Source, adapter: SavedAdapter) -> None:
    """Of an adapter with shared projections only the other factors are by module."""
    row, chain = adapter.config.row, adapter.chain
    rank = getattr(adapter.config.settings(), row.rank)
    own = [factor for factor in chain if not (isinstance(factor, Matrix) and factor.shared)]
    for module, tensors in adapter.modules.items():
        parts = {factor.name: tensors[factor.name] for factor in own}
        fits = all(parts[factor.name].dim() == len(factor.symbols) for factor in own)
        if not fits or symbol_sizes_of(chain, parts).get(row.rank, rank) != rank:
            shapes = {name: tuple(tensor.shape) for name, tensor in parts.items()}
            raise TapertuneError(f"{source.path}: {module} has factors of shapes {shapes}; {row.rank} is {rank}")


__all__ = ["FORMATS", "Format", "ImportReport", "Imported", "Source", "import_adapter"]
