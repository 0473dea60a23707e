from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

TINY = ("--batch", "2", "--length", "16", "--models", "bert-2x128", "--subjects", "ours-lora", "--rounds", "1")


def test_lists_models_and_subjects(cli: Any) -> None:
    from tapertune.benchmark.base_models import MODELS
    from tapertune.benchmark.variants import VARIANTS

    done = cli("bench", "--list")
    assert done.code == 0
    first = {line.split()[0] for line in done.out.splitlines() if line}
    assert {*MODELS, *VARIANTS} <= first


def test_measures_shows_and_keeps(cli: Any, tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    done = cli("bench", *TINY, "--out", out)
    assert done.code == 0, done.err
    assert "bert-2x128; cpu, float32, 1 thread, 2 x 16 tokens, CPU time" in done.out
    data = json.loads(out.read_text())
    assert [m["subject"] for m in data["sessions"][0]["measurements"]] == ["floor", "ours-lora"]

    before = out.read_bytes()
    again = cli("bench", *TINY, "--out", out, "--show")
    assert (again.code, again.out) == (0, done.out)
    assert out.read_bytes() == before
    resumed = cli("bench", *TINY, "--out", out, "--resume")
    assert (resumed.out, resumed.err) == (done.out, "")
    markdown = cli("bench", *TINY, "--out", out, "--show", "--table")
    assert "| LoRA r=8 |" in markdown.out and "**bert-2x128**" in markdown.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--models", "bert-6x38"), "unknown model 'bert-6x38': did you mean 'bert-6x384'"),
        (("--subjects", "our-lora"), "unknown subject 'our-lora': did you mean 'ours-lora'"),
        (("--device", "gpu"), "unknown device 'gpu'"),
        (("--dtype", "float16"), "unknown dtype 'float16'"),
        (("--show", "--out", "none.json"), "cannot read 'none.json'"),
        (("--rounds", "0"), "--rounds"),
    ],
)
def test_wrong_settings_are_one_line(cli: Any, arguments: tuple[str, ...], message: str) -> None:
    done = cli("bench", *arguments)
    assert done.code == 2 and done.err.count("\n") == 1
    assert message in done.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_a_missing_gpu_is_one_line(cli: Any, tmp_path: Path) -> None:
    done = cli("bench", "--device", "cuda", "--out", tmp_path / "speed.json")
    assert done.code == 2
    assert done.err == ("error: device is 'cuda', and torch sees no CUDA device here; measure with --device cpu\n")


def test_nothing_to_show_says_what_was_asked_for(cli: Any, tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    out.write_text('{"schema_version": 1}')
    done = cli("bench", "--show", "--out", out, "--threads", "2")
    assert done.code == 2 and "nothing measured with cpu, float32, 2 threads" in done.err
