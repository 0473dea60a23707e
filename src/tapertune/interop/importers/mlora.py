"""LoRAN's released adapters: a PEFT of their own, type ``MLORA``.

Their product is the transpose of ours: ``M = (B A)'``, then ``M <- P' f(M) + b`` with P (r_i x r_{i+1}), which is our
``f(B A) P + b'``, so the tensors are taken over as they are. The map is not shifted to f(0) = 0 there.
"""

from __future__ import annotations

from ...errors import TapertuneError
from .layout import Format, Imported, need_factors, one_rank, peft_fields, peft_key, saved_modules, split_keys
from .peft_fields import LORA, Carried, check_fields
from .source import Source

_MAPS = {
    "Sin": "sinter", "Cos": "cos", "Gaussian": "gaussian", "Identity": "identity", "Relu": "relu",
    "Sigmoid": "sigmoid", "Silu": "silu", "Swish": "swish", "Tanh": "tanh",
}  # fmt: skip
_FIELDS = {
    **LORA,
    "r": Carried(list[int] | int | None),
    "mlora_alpha": Carried(float | None),
    "mlora_dropout": Carried(float | None),
    "mlora_af": Carried(str | None),
    "mlora_af_sin_A": Carried(float | None),
    "mlora_af_sin_omega": Carried(float | None),
}
_KEY = peft_key(r"mlora_A|mlora_B|mlora_P_\d+|mlora_b_\d+")


def _matches(source: Source) -> bool:
    return source.has(r"\.mlora_A(\.|$)")


def read(source: Source) -> Imported:
    check_fields(source, _FIELDS, closed=False)
    modules, rest = split_keys(source, _KEY, FORMAT.name)
    need_factors(source, modules, ("mlora_A", "mlora_B"))
    extras = saved_modules(source, rest, modules, r"\.mlora_")
    widths = source.need("r", FORMAT.name)
    r = one_rank(source, modules, "mlora_A")
    if not isinstance(widths, list) or len(widths) < 2 or widths[0] != r:
        raise TapertuneError(f"{source.path}: the config says r = {widths}, the tensors begin with rank {r}")
    maps = len(widths) - 1
    with_p, with_b = source.has(r"\.mlora_P_"), source.has(r"\.mlora_b_")
    if not with_p and maps > 1:
        raise TapertuneError(f"{source.path}: {maps} maps without P between them cannot be imported")
    wanted = [
        f"mlora_{kind}_{i}" for kind, there in (("P", with_p), ("b", with_b)) if there for i in range(1, maps + 1)
    ]
    need_factors(source, modules, tuple(wanted))
    activation = source.need("mlora_af", FORMAT.name)
    if activation not in _MAPS:
        raise TapertuneError(f"{source.path}: unknown mlora_af {activation!r}; known: {', '.join(_MAPS)}")
    fields = peft_fields(source, modules, extras) | {
        "r": r,
        "lora_alpha": source.need_alpha(FORMAT.name, source.config.get("mlora_alpha"), "16 in the released config"),
        "dropout": source.config.get("mlora_dropout") or 0.0,
        "activation": _MAPS[activation],
        "p_sizes": widths[1:] if with_p else [],
        "offsets": with_b,
        "center": False,
    }
    if activation == "Sin":
        fields["amplitude"] = source.need("mlora_af_sin_A", FORMAT.name)
        fields["omega"] = source.need("mlora_af_sin_omega", FORMAT.name)
    names = {"mlora_A": "A", "mlora_B": "B"} | {name: name[6] + name[8:] for name in wanted}
    renamed = {
        m: {ours: t[theirs].flatten() if ours[0] == "b" else t[theirs] for theirs, ours in names.items()}
        for m, t in modules.items()
    }
    return Imported(method="loran", fields=fields, modules=renamed, extras=extras)


FORMAT = Format(name="loran-mlora", title="LoRAN's own PEFT (MLORA)", matches=_matches, read=read)
