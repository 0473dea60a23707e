from __future__ import annotations

from tapertune.train.baseline_events import timeless


def test_clock_times_are_no_events() -> None:
    metrics = {"eval_loss": 1.0, "eval_runtime": 2.0, "eval_samples_per_second": 3.0, "epoch": 1.0, "eval_f1": 0.5}
    assert timeless(metrics) == {"loss": 1.0, "f1": 0.5}
