"""What a run will take, estimated beforehand: optimizer steps and floating-point operations.

The operations are the formula of ``measured``, before any run: rows of a task's mean length, without padding (which
adds to it, the less the better lengths are grouped) and with everything that trains at the start still training at the
end (so a method that freezes or prunes takes less). The lowest layer in which something trains is counted whole.
Nothing is said of hours, which depend on the machine.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any

from ..errors import TapertuneError
from ..host.module_names import layer_index
from ..kernels import pass_flops
from ..runfile.settings import RunSettings
from .shapes import Part, Shape, model_config


@dataclass(frozen=True, kw_only=True)
class Data:
    """A training split.

    Attributes:
        rows: how many it has.
        source: mean tokens that the model reads: the text, or prompt and answer together for a decoder.
        target: mean tokens of the answer that a decoder behind an encoder writes.
    """

    rows: int
    source: int
    target: int = 0


# Rows: the official training splits; of LLM-Adapters' sets, the 10,000 that its authors train on. Tokens: means of a
# thousand rows under BERT's uncased vocabulary, with instructions where a decoder reads them; for XSum and
# CNN/DailyMail, the published means in words (Narayan et al. 2018, See et al. 2017) times 1.25.
DATA: dict[str, Data] = {
    "cola": Data(rows=8551, source=11),
    "sst2": Data(rows=67349, source=14),
    "mrpc": Data(rows=3668, source=53),
    "stsb": Data(rows=5749, source=28),
    "qqp": Data(rows=363846, source=31),
    "mnli": Data(rows=392702, source=39),
    "qnli": Data(rows=104743, source=50),
    "rte": Data(rows=2490, source=70),
    "squad": Data(rows=87599, source=194),
    "squad_v2": Data(rows=130319, source=194),
    "xsum": Data(rows=204045, source=539, target=29),
    "cnn_dailymail": Data(rows=287113, source=976, target=70),
    "samsum": Data(rows=14732, source=160),
    "newsgroups20": Data(rows=11314, source=256),
    "newsgroups20_generation": Data(rows=11314, source=300),
    "gsm8k": Data(rows=7473, source=160),
    "math_instruct": Data(rows=9919, source=160),
}
_SAMPLE_ROWS = 2000
_CROSS_SOURCE = re.compile(r"encoder_attn\.[kv]_proj$")


def rows(settings: RunSettings) -> int | None:
    """Training rows of a run, or None where only its data can tell."""
    task = settings.task
    if task.train is not None or task.name not in DATA:
        return task.train_rows
    known = _SAMPLE_ROWS if task.data == "sample" else DATA[task.name].rows
    return min(known, task.train_rows or known)


def steps(settings: RunSettings) -> int | None:
    """Optimizer steps of a run on one device, or None where only its data can tell."""
    training = settings.training
    if (most := training.get("max_steps", -1)) > 0:
        return most
    count = rows(settings)
    if count is None:
        return None
    batch = training["per_device_train_batch_size"]
    batches = count // batch if training.get("dataloader_drop_last") else math.ceil(count / batch)
    updates = max(1, math.ceil(batches / training.get("gradient_accumulation_steps", 1)))
    return math.ceil(training["num_train_epochs"] * updates)


def check_plans(settings: RunSettings, shape: Shape, total: int | None = None) -> None:
    """Does each schedule fit into the run, of so many steps, or of those that its task's data makes?

    Raises:
        TapertuneError: no, such as phases that are longer together than all steps.
    """
    total = total or steps(settings)
    for plan in shape.plans if total is not None else ():
        try:
            plan.schedule.check(total or 0)
        except TapertuneError as error:
            raise TapertuneError(f"plan: {error}") from error


def flops(settings: RunSettings, shape: Shape) -> float | None:
    """Operations of a whole training, or None where only its data can tell."""
    total = steps(settings)
    if total is None or settings.task.name not in DATA:
        return None
    training = settings.training
    read = total * training["per_device_train_batch_size"] * training.get("gradient_accumulation_steps", 1)
    count = rows(settings) or 0
    whole = math.ceil(training["num_train_epochs"]) * count
    return row_flops(settings, shape) * (read if training.get("max_steps", -1) > 0 else whole)


def row_flops(settings: RunSettings, shape: Shape) -> float:
    """Operations of training on one row."""
    data, method = DATA[settings.task.name], settings.method.name
    config = model_config(settings.model)
    source = min(data.source, settings.task.max_length)
    target = data.target if config.is_encoder_decoder else 0
    passes = {"head": 1.0, "full": 3.0}.get(method, 2.0)
    back = 0.0 if method == "head" else 2.0 * (1 - shape.lowest / config.num_hidden_layers)
    total = _attention(config, source, target) * (1 + back)
    for part in shape.parts:
        if part.head:
            total += 6.0 * part.weights
        else:
            share = 1.0 if method != "head" and _below(part, shape.lowest) else passes
            read = _tokens(part.name, source, target)
            total += read * 2.0 * part.weights * share + _adapter(settings, part, read)
    return total


def _adapter(settings: RunSettings, part: Part, read: int) -> float:
    """Operations of a layer's adapter in a row, of which the layer reads so many vectors."""
    if part.adapter is None:
        return 0.0
    training, quantised = settings.training, settings.quantization is not None
    half = settings.dtype != "float32" or bool(training.get("bf16") or training.get("fp16"))
    call = part.adapter.call._replace(autocast=half)
    layer = dataclasses.replace(part.adapter.changed(plain=not quantised), call=call)
    batch = training["per_device_train_batch_size"]
    return pass_flops([layer], batch * read, input_grad=True) / batch


def _below(part: Part, lowest: int) -> bool:
    """Whether no gradient reaches this layer's input, as nothing trains there or beneath."""
    index = layer_index(part.name)
    return index is not None and index < lowest


def _tokens(name: str, source: int, target: int) -> int:
    """Vectors that a linear layer reads in a row."""
    if "pooler" in name:
        return 1
    if target and ("decoder" in name or name == "lm_head"):
        return source if _CROSS_SOURCE.search(name) else target
    return source


def _attention(config: Any, source: int, target: int) -> float:
    """Forward operations of queries times keys and attention times values in a row."""
    width = config.hidden_size
    if target:
        decoder = target * target + source * target
        return 4.0 * width * (config.encoder_layers * source * source + config.decoder_layers * decoder)
    return 4.0 * width * config.num_hidden_layers * source * source
