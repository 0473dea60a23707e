"""An adapter in whatever format is asked for: a LoRA adapter, or a whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import TapertuneError, bad_value, unknown
from .exports import STACKED, ExportReport, MergeReport
from .formats import FORMATS, MERGED
from .lora import export_lora
from .merging import merge
from .saved import read_config
from .servers import Served, check_format, find_server

_OF_LORA = ("round_up", "ragged", "with_base")


def export(
    adapter_dir: str | Path,
    out_dir: str | Path,
    *,
    to: str | None = None,
    server: str | None = None,
    base: str | Path | None = None,
    dtype: str | None = None,
    **values: Any,
) -> ExportReport | MergeReport:
    """Writes a saved adapter in a format that other programs read.

    Args:
        adapter_dir: the adapter.
        out_dir: a new folder; it appears only when everything is written.
        to: ``lora``, ``gguf`` or ``mlx``, see ``export_lora``; ``merged``, see ``merge``. Default: what ``server``
            reads, else ``lora``.
        server: whose limits the export has to keep; the report has the commands that start it.
        base: the base model, folder or name; default: the one that the adapter names.
        dtype: of a merged model's weights; default: the base's.
        values: ``rank``, ``energy``, ``max_error``, ``check`` and ``max_difference`` for all; ``round_up``,
            ``ragged``, ``experts`` and ``with_base`` for LoRA adapters.

    Raises:
        TapertuneError: an unknown format or server, one that does not read the other, an option that the format does
            not have, or as the format's own function.
    """
    own = find_server(server).formats[0] if server is not None else "lora"
    to = own if to is None else to
    if to not in (*FORMATS, MERGED):
        raise unknown("export format", to, (*FORMATS, MERGED))
    if server is not None:
        check_format(server, to)
    if to != MERGED:
        if dtype is not None:
            raise bad_value("dtype", dtype, "left out unless a merged model is written (--to merged)")
        return export_lora(adapter_dir, out_dir, to=to, server=server, base=base, **values)
    for name in _OF_LORA:
        if values.pop(name, False):
            raise bad_value(name, True, "False for a merged model, which has no adapter")
    if (experts := values.pop("experts", STACKED)) != STACKED:
        raise bad_value("experts", experts, f"{STACKED!r} for a merged model, which has no adapter")
    origin = base or read_config(Path(adapter_dir)).base_model_name_or_path
    if not origin:
        raise TapertuneError("the adapter names no base model: name it (--base)")
    served = Served(base=str(origin), out=str(out_dir))
    commands = find_server(server).commands[MERGED](served) if server is not None else ()
    return merge(origin, adapter_dir, out_dir, dtype=dtype, server=server, commands=tuple(commands), **values)
