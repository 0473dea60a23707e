"""``tapertune init MODEL``: adapters that have not trained yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny import batch, tiny_bert, tiny_gpt2

from tapertune.cli.main import main
from tapertune.methods import METHODS


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "bert"
    tiny_bert().save_pretrained(folder)  # type: ignore[operator]
    return folder


def init(*arguments: object) -> int:
    return main(["init", *map(str, arguments)])


@pytest.mark.parametrize("method", METHODS)
def test_it_loads_trains_and_leaves_the_model_as_it_is(method: str, base: Path, tmp_path: Path, capsys: Any) -> None:
    row, out = METHODS[method], tmp_path / "start"
    assert init(base, "--method", method, "--out", out, f"--method.{row.rank}", 2) == 0
    assert "TAPERTUNE_CALLBACK=1" in capsys.readouterr().out
    plain: Any = tiny_bert()
    inputs = {"input_ids": batch()["input_ids"]}
    expected = plain.eval()(**inputs).logits
    model = PeftModel.from_pretrained(plain, str(out), is_trainable=True).eval()
    config: Any = model.peft_config["default"]
    assert (config.method, getattr(config, row.rank), config.task_type) == (method, 2, "SEQ_CLS")
    assert any(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, expected)


def test_a_decoders_task_and_the_same_start_twice(tmp_path: Path) -> None:
    tiny_gpt2().save_pretrained(tmp_path / "gpt2")  # type: ignore[operator]
    for name in ("a", "b"):
        assert init(tmp_path / "gpt2", "--out", tmp_path / name, "--method.r", 2) == 0
    files = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1] and '"CAUSAL_LM"' in (tmp_path / "a" / "adapter_config.json").read_text()


def test_what_is_there_is_replaced_only_where_it_is_an_adapter(base: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "start"
    out.mkdir()
    (out / "thesis.txt").touch()
    assert init(base, "--out", out) == 2 and "--overwrite" in capsys.readouterr().err
    assert init(base, "--out", out, "--overwrite") == 2 and "holds no adapter" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    other = tmp_path / "other"
    assert init(base, "--out", other, "--method.r", 2) == init(base, "--out", other, "--overwrite") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "aflra"], "aflora"),
        (["--method", "full"], "full"),
        (["--method.rnk", "4"], "rnk"),
        (["--method.r", "0"], "r"),
        (["--training.max_steps", "4"], "--method.NAME"),
        (["--text", "review"], "--text goes with a data file"),
        (["--method.target_modules", "[nowhere]"], "nowhere"),
    ],
)
def test_what_is_wrong_is_a_line_and_nothing_is_written(
    arguments: list[str], message: str, base: Path, tmp_path: Path, capsys: Any
) -> None:
    assert init(base, "--out", tmp_path / "start", *arguments) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_models_that_are_none(tmp_path: Path, capsys: Any) -> None:
    assert init(tmp_path, "--out", tmp_path / "start") == 2 and "no config.json" in capsys.readouterr().err
    assert init("nobody/nothing", "--out", tmp_path / "start") == 2
    assert "no such file or folder" in capsys.readouterr().err
    (tmp_path / "rows.csv").write_text("text,label\n" + "good,1\nbad,0\n" * 20)
    assert init(tmp_path / "rows.csv", "--out", tmp_path / "run.yaml", "--method.r", 4) == 2
    assert "set it in the run file" in capsys.readouterr().err
    assert init(tmp_path / "missing.csv", "--out", tmp_path / "run.yaml") == 2
    assert "missing.csv" in capsys.readouterr().err and not (tmp_path / "run.yaml").exists()
