from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tapertune.runfile.settings import load_settings


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "minlim"), "unknown model 'minlim': did you mean 'minilm'?"),
        (("--model", "minilm", "--memory", "24gig"), "--memory is '24gig': no unit is called 'gig'"),
        (("--model", "minilm", "--memory", "24"), "--memory is '24'; it must be a size above 0"),
        (("--model", "minilm", "--parameters", "many"), "--parameters is 'many'"),
        (("--model", "minilm", "--minutes", "0"), "--minutes is '0'"),
        (("--model", "minilm", "--minutes", "3", "--no-times"), "--no-times and --minutes exclude each other"),
        (("--model", "minilm", "--method", "lroa"), "unknown method 'lroa': did you mean 'lora'?"),
        (("--model", "minilm", "--device", "gpu"), "unknown --device 'gpu'"),
        (("--model", "minilm", "--task", "mnlii"), "mnlii"),
        (("--model", "minilm", "--store", "nowhere", "--no-times"), "--store 'nowhere' is no store"),
        ((), "plan needs a run file, or --model"),
    ],
)
def test_bad_input_is_one_line(cli: Any, arguments: tuple[str, ...], words: str) -> None:
    done = cli("plan", *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert words in done.err and not done.out


def test_what_fits_is_a_run_file_that_trains(cli: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from train.tiny_run import raw_settings

    monkeypatch.chdir(root)  # where the study has no records
    (root / "run.yaml").write_text(yaml.safe_dump(raw_settings(root, "lora")), encoding="utf-8")
    least = cli("plan", root / "run.yaml", "--method", "lora", "--no-times", "--memory", "1KB")
    assert (least.code, least.err.count("\n")) == (2, 1)
    assert "nothing fits --memory 1KB; the nearest is lora with" in least.err
    done = cli("plan", root / "run.yaml", "--method", "lora,aflora", "--no-times", "--parameters", "900", "--rows", 40,
               "--out", root / "planned.yaml")  # fmt: skip
    assert done.code == 0, done.err
    assert "ranked by parameters: nothing was measured" in done.out
    settings = load_settings(root / "planned.yaml")
    assert f"train it: tapertune train {root / 'planned.yaml'}" in done.out
    trained = cli("train", root / "planned.yaml", "--output-dir", root / "planned", "--training.max_steps", 3)
    assert trained.code == 0, trained.err
    assert "note: plan: " in trained.err and " of memory, " in trained.err and "learning rate" not in settings.name
