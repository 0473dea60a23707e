"""Files made wrong at random: values of another type in JSON, other names and numbers in headers, other bytes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 10**400, 1e308, float("nan"), 1.5, "", "x" * 3000, "../x", "/etc/passwd", "\ud800", "a\nb", [],
    {}, [[]], [None], ["query"], {"a": 1}, {"a": {"b": []}}, [1, "x"], "F32", "LORA", "TAPERTUNE_LORA", "CAUSAL_LM",
)  # fmt: skip


def spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of every value inside, itself among them."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(spot for key, item in inner for spot in spots(item, (*path, key)))]


def damage_json(value: Any, rng: random.Random) -> Any:
    """The value with one place inside replaced, removed, renamed, or a thousand levels deeper."""
    value = json.loads(json.dumps(value))
    inner = spots(value)[1:]
    if not inner:
        return rng.choice(WRONG)
    *way, last = rng.choice(inner)
    owner = value
    for key in way:
        owner = owner[key]
    kind = rng.randrange(4)
    if kind == 0 and isinstance(owner, dict):
        del owner[last]
    elif kind == 1 and isinstance(owner, dict):
        owner[rng.choice(["", "../x", "\ud800", "peft_type", "__class__", "r"])] = owner.pop(last)
    else:
        owner[last] = rng.choice(WRONG)
    return value


def damage_text(text: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return text[: rng.randrange(len(text))]
    if kind == 1:
        return b"[" * 5000 + text
    return _bytes(text, rng)


def _bytes(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 4, 32])):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def damage_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Another header, with its length made right, or other bytes anywhere."""
    kind = rng.randrange(5)
    if kind == 0:
        return content[: rng.randrange(len(content))]
    if kind == 1:
        return _bytes(content, rng)
    if kind == 2:
        return rng.choice([0, 7, 2**31, 2**63, 2**64 - 1]).to_bytes(8, "little") + content[8:]
    length = int.from_bytes(content[:8], "little")
    header = damage_json(json.loads(content[8 : 8 + length]), rng)
    try:
        text = json.dumps(header).encode("utf-8", errors="surrogatepass")
    except ValueError:
        return content[:length]
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def damage_file(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.8:
        path.write_text(json.dumps(damage_json(json.loads(content), rng)))
    elif path.suffix == ".json":
        path.write_bytes(damage_text(content, rng))
    elif path.suffix == ".safetensors":
        path.write_bytes(damage_safetensors(content, rng))
    else:
        path.write_bytes(_bytes(content, rng) if rng.random() < 0.8 else content[: rng.randrange(len(content))])
