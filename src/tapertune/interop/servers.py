"""What servers of LoRA adapters do with what they are given, as far as an export depends on it.

Ranks and scalings: vLLM and PEFT read them by module or need one bound. llama.cpp, and what stands on it, divides the
one ``lora_alpha`` by each tensor's own rank. SGLang stacks tensors, which must have one size. TGI pads ranks, and
divides ``lora_alpha`` by the padded one from the second kind of module on: only ranks that it does not pad are safe.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ..errors import TapertuneError, bad_value, printable, unknown

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for ``--max-lora-rank``."""

RAGGED = (
    "a rank for each module: PEFT and vLLM read it right; llama.cpp, Ollama and TensorRT-LLM divide one lora_alpha by"
    " each tensor's own rank and so scale wrongly where ranks differ; SGLang, TGI and LoRAX fail where ranks differ or"
    " a layer lacks a module"
)
GGUF_FILE = "adapter.gguf"
"""The file of a GGUF export."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a command that starts a server has to name.

    Attributes:
        base: the base model, folder or name.
        out: the export's folder.
        rank: of the adapter; None for a merged model.
    """

    base: str
    out: str
    rank: int | None = None


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server's limits.

    Attributes:
        formats: of exports that it reads; the first is the one to write where none is named.
        commands: by format, the lines that start it.
        round_rank: the rank to write for one that is needed; None where any will do.
        largest_rank: that it takes; None for no limit.
        kinds: last parts of the modules' paths that it takes; None for all linear layers of the models it knows.
        whole: names of modules whose weights it takes beside an adapter, as they were trained whole.
        ragged: formats of which it reads ranks that differ between modules.
        generates: whether it serves models that generate text alone; if not, other heads on their layers too.
    """

    formats: tuple[str, ...]
    commands: dict[str, Callable[[Served], list[str]]]
    round_rank: Callable[[int], int] | None = None
    largest_rank: int | None = None
    kinds: frozenset[str] | None = None
    whole: frozenset[str] = frozenset()
    ragged: tuple[str, ...] = ()
    generates: bool = True


ADDED_TWICE = (
    "the installed PEFT adds the update of an nn.MultiheadAttention's output projection twice, so half of it is written"
)


def vllm_rank(rank: int) -> int:
    """The smallest of vLLM's ranks that is not below.

    Raises:
        TapertuneError: there is none.
    """
    larger = [allowed for allowed in VLLM_RANKS if allowed >= rank]
    if not larger:
        raise bad_value("rank", rank, f"at most {VLLM_RANKS[-1]} to be rounded up to one of vLLM's (--rank cuts it)")
    return larger[0]


def tgi_rank(rank: int) -> int:
    """The smallest rank that TGI does not pad and is not below: 8, or a multiple of 16.

    >>> [tgi_rank(rank) for rank in (1, 8, 9, 16, 17)]
    [8, 8, 16, 16, 32]
    """
    return 8 if rank <= 8 else -(-rank // 16) * 16


def _line(*parts: str) -> str:
    return " ".join(shlex.quote(printable(part)) for part in parts)


def _vllm(served: Served) -> list[str]:
    rank = str(vllm_rank(served.rank or 1))
    options = ("--enable-lora", "--max-lora-rank", rank, "--lora-modules", f"adapter={served.out}")
    return [_line("vllm", "serve", served.base, *options)]


def _sglang(served: Served) -> list[str]:
    command = ("python", "-m", "sglang.launch_server", "--model-path", served.base, "--enable-lora")
    return [_line(*command, "--max-lora-rank", str(served.rank), "--lora-paths", f"adapter={served.out}")]


def _tgi(served: Served) -> list[str]:
    return [_line("text-generation-launcher", "--model-id", served.base, "--lora-adapters", f"adapter={served.out}")]


def _llama_cpp(served: Served) -> list[str]:
    convert = _line("python", "convert_hf_to_gguf.py", served.base, "--outfile", "base.gguf")
    return [convert, _line("llama-server", "--model", "base.gguf", "--lora", f"{served.out}/{GGUF_FILE}")]


def _llama_cpp_merged(served: Served) -> list[str]:
    convert = _line("python", "convert_hf_to_gguf.py", served.out, "--outfile", "merged.gguf")
    return [convert, _line("llama-server", "--model", "merged.gguf")]


_PROJECTIONS = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})

SERVERS = {
    "vllm": Server(
        formats=("lora", "merged"),
        commands={"lora": _vllm, "merged": lambda served: [_line("vllm", "serve", served.out)]},
        largest_rank=VLLM_RANKS[-1],
        whole=frozenset({"score"}),
        ragged=("lora",),
        generates=False,
    ),
    "sglang": Server(
        formats=("lora", "merged"),
        commands={
            "lora": _sglang,
            "merged": lambda served: [_line("python", "-m", "sglang.launch_server", "--model-path", served.out)],
        },
        kinds=_PROJECTIONS | {"lm_head", "out_proj"},
    ),
    "llama.cpp": Server(
        formats=("gguf", "merged"),
        commands={"gguf": _llama_cpp, "merged": _llama_cpp_merged},
        ragged=("gguf",),
    ),
    "tgi": Server(
        formats=("lora", "merged"),
        commands={
            "lora": _tgi,
            "merged": lambda served: [_line("text-generation-launcher", "--model-id", served.out)],
        },
        round_rank=tgi_rank,
        kinds=_PROJECTIONS,
    ),
    "mlx": Server(
        formats=("mlx", "merged"),
        commands={
            "mlx": lambda served: [_line("mlx_lm.server", "--model", served.base, "--adapter-path", served.out)],
            "merged": lambda served: [_line("mlx_lm.server", "--model", served.out)],
        },
    ),
}


def find_server(name: str) -> Server:
    """
    Raises:
        TapertuneError: there is no such server; the nearest is named.
    """
    if name not in SERVERS:
        raise unknown("server", name, SERVERS)
    return SERVERS[name]


def check_format(name: str, to: str) -> None:
    """Raises TapertuneError where a server does not read exports of that format."""
    formats = find_server(name).formats
    if to not in formats:
        raise bad_value("--to", to, f"{' or '.join(formats)} for {name}")


def check_limits(
    name: str, to: str, *, rank: int, ragged: bool, modules: Collection[str], saved: Collection[str], model: str
) -> None:
    """Raises TapertuneError where a server cannot serve an adapter, with what to do instead.

    Args:
        name: of the server.
        to: the export's format, which it reads.
        rank: the largest of a module.
        ragged: whether ranks differ between modules.
        modules: paths of the modules that are written.
        saved: names of weights that are saved whole.
        model: the auto class of transformers that builds the adapted model.
    """
    server = find_server(name)
    merged = "serve the merged model (--to merged)"
    if ragged and to not in server.ragged:
        raise bad_value("ragged", True, f"False for {name}, which needs one rank in all modules")
    if server.largest_rank is not None and rank > server.largest_rank:
        raise bad_value("rank", rank, f"at most {server.largest_rank} for {name}: --rank or --energy cuts it")
    layers = all(module.startswith(("model.layers.", "lm_head")) for module in modules)
    if model not in GENERATING and (server.generates or not layers):
        taken = "models that generate text" if server.generates else "decoders"
        raise TapertuneError(f"{name} takes adapters of {taken}, and this is {model}'s: {merged}")
    if not {path.partition(".")[0] for path in saved} <= server.whole:
        raise TapertuneError(
            f"{name} takes no weights that were trained whole ({listing(saved)}): write a base with them in it beside"
            f" the adapter (--with-base), or {merged}"
        )
    kinds = {module.rpartition(".")[2] for module in modules}
    if server.kinds is not None and not kinds <= server.kinds:
        other = ", ".join(sorted(kinds - server.kinds))
        raise TapertuneError(f"{name} takes adapters of {', '.join(sorted(server.kinds))}, not of {other}: {merged}")


GENERATING = ("AutoModelForCausalLM", "AutoModelForImageTextToText")
"""The classes of transformers whose models servers generate text with."""


def listing(names: Collection[str]) -> str:
    """
    >>> listing(["a", "b", "c", "d", "e", "f"])
    'a, b, c, d and 2 more'
    """
    ordered = sorted(names)
    return ", ".join(ordered[:4]) + (f" and {len(ordered) - 4} more" if len(ordered) > 4 else "")


def saved_beside_note(names: Collection[str]) -> str:
    """What becomes of modules that are saved whole."""
    return (
        f"trained whole and saved beside the update: {listing(names)}. PEFT loads that; vLLM and llama.cpp refuse such"
        " an adapter, and SGLang, TGI and LoRAX leave these weights out: for them, --with-base writes a base with these"
        " weights in it and an adapter without them, and --to merged a whole model"
    )
