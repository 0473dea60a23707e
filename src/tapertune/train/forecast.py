"""What a run is said to take before it begins: the same reckoning as ``tapertune plan``, with the run's own rows."""

from __future__ import annotations

import copy

import psutil
import torch

from ..cost.budget import in_words
from ..cost.plan import Estimate, plan_run, reads_of
from ..cost.planned import Reads
from ..report.numbers import duration
from ..tasks.kinds import Encoded, get_kind
from .prepare import Prepared
from .suppress_logging import suppress_logging
from .trainer import total_steps


def resident_bytes() -> int:
    """Memory of this process now."""
    return int(psutil.Process().memory_info().rss)


def reads_of_run(prepared: Prepared) -> Reads:
    """What a prepared run reads, by its rows; of a stream nothing is known but what its task tells."""
    known = reads_of(prepared.settings)
    evaluated = sum(len(rows) for rows in prepared.evaluation.values())
    if not isinstance(prepared.train, Encoded):
        return Reads(rows=None, mean=known.mean, longest=known.longest, target=known.target, evaluated=evaluated)
    lengths = [len(row["input_ids"]) for row in prepared.train.rows]
    if prepared.settings.training.get("train_sampling_strategy") == "group_by_length":
        lengths.sort()
    size = prepared.args.train_batch_size
    batches = [lengths[i : i + size] for i in range(0, len(lengths), size)]
    padded = sum(max(each) * len(each) for each in batches) / len(lengths)
    written = not get_kind(prepared.task.kind).trains_head  # else labels are classes, not tokens
    labels = [row["labels"] for row in prepared.train.rows if written]
    target = max((len(each) for each in labels), default=0)
    return Reads(rows=len(lengths), mean=padded, longest=max(lengths), target=target, evaluated=evaluated)


def forecast(prepared: Prepared) -> Estimate:
    """What a prepared run will take; torch's random numbers are afterwards as they were."""
    built, device = prepared.built, prepared.args.device.type
    weights = sum(p.numel() * p.element_size() for p in built.model.parameters() if p.device.type == "cpu")
    config = copy.deepcopy(built.model.config)
    if getattr(config, "use_cache", None) is False:
        config.use_cache = True  # else the model looks at its positions, and one without weights has no numbers
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices=devices), suppress_logging():
        return plan_run(
            prepared.settings,
            reads=reads_of_run(prepared),
            device="cuda" if device == "cuda" else "cpu",
            process=max(0, resident_bytes() - weights),
            config=config,
        )


def start_line(prepared: Prepared) -> str:
    """Where a run computes, on how many rows, in how many steps."""
    args, train = prepared.args, prepared.train
    count = torch.get_num_threads()
    threads = f" ({count} thread{'s' if count > 1 else ''})" if args.device.type == "cpu" else ""
    batch = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    known = prepared.counts.get("train")
    rows = "a stream" if known is None else f"{known.rows - known.bad - known.left_out:,} rows"
    if isinstance(train, Encoded) and known is not None and len(train) != known.rows - known.bad - known.left_out:
        rows += f" in {len(train):,}"  # windows, or packed
    steps = total_steps(args, len(train) if isinstance(train, Encoded) else 1)
    scored = sum(len(rows.examples) for rows in prepared.evaluation.values())
    return f"note: {args.device}{threads}: {rows}, {steps:,} steps of {batch}, {scored:,} rows to score"


def forecast_line(prepared: Prepared) -> str:
    """The memory and the minutes that a prepared run will take, in a line."""
    try:
        return f"note: plan: {spelled(forecast(prepared))}"
    except Exception as error:  # a model may be of a kind that cannot be reckoned: that ends no run
        return f"note: plan: what this run takes cannot be told beforehand ({type(error).__name__}: {error})"


def spelled(estimate: Estimate) -> str:
    """Memory and minutes, in a few words."""
    memory = in_words(estimate.memory.total)
    place = "of GPU memory" if estimate.device == "cuda" else "of memory"
    time = estimate.time
    if time is None:
        return f"{memory} {place}; minutes are not known here"
    if time.minutes is None or time.training is None:
        return f"{memory} {place}, {time.step:.2g} s a step"
    parts = (
        f" ({time.step:.2g} s a step)"
        if not time.evaluating
        else (f" ({time.step:.2g} s a step; {duration(time.evaluating)} of it evaluating)")
    )
    return f"{memory} {place}, {duration(60 * time.minutes)}{parts}"
