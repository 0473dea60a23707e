"""What a run is trained on, beyond its settings: files change under their names. ``run.json`` keeps it, and a run goes
on with nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ..host import adapter_parameters
from ..integrations.digests import digest_of
from ..integrations.same_run import CONTENTS, model_facts, split_facts
from ..runfile.settings import BASELINES
from ..tasks.stream import Stream
from .prepare import Prepared

_BLOCK, _MOST_BLOCKS = 2**20, 2**10


def trained_on(prepared: Prepared) -> dict[str, Any]:
    """Rows as they are encoded, tokenizer, base model, and over how many processes batches are split: values and
    digests by name, for ``same_run.check_facts``."""
    train, model = prepared.train, prepared.built.model
    adapts = prepared.settings.method.name not in BASELINES
    adapter = {id(handle.parameter) for handle in adapter_parameters(model)} if adapts else set()
    evaluated = {
        f"{CONTENTS}the rows of {name}": digest_of([rows.rows, rows.examples])
        for name, rows in prepared.evaluation.items()
    }
    return {
        **split_facts(prepared.args),
        f"{CONTENTS}the training rows": _of_stream(train) if isinstance(train, Stream) else digest_of(train.rows),
        **evaluated,
        f"{CONTENTS}the tokenizer's words": _of_tokenizer(prepared.built.tokenizer),
        **model_facts(model, adapter),
    }


def _of_stream(stream: Stream) -> str | None:
    """Of a file that is read as it is needed; of one above a gibibyte, its length and a part. None of one elsewhere."""
    path = Path(stream.source)
    if not path.is_file():
        return None
    size = path.stat().st_size
    count = -(-size // _BLOCK)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(min(count, _MOST_BLOCKS)):
            file.seek(_BLOCK * (number if count <= _MOST_BLOCKS else number * (count - 1) // (_MOST_BLOCKS - 1)))
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def _of_tokenizer(tokenizer: Any) -> str:
    template = getattr(tokenizer, "chat_template", None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return digest_of([tokenizer.get_vocab(), special, tokenizer.padding_side, template])
