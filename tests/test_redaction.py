"""Secrets stay out of what is written and shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tapertune.redaction import HIDDEN, hide_in_text, hide_secrets, is_secret

TOKEN = "hf_" + "AbCdEfGh" * 4
PLAIN = "correct-horse-battery"


@pytest.mark.parametrize(
    "name", ["hub_token", "push_to_hub_token", "HF_TOKEN", "token", "wandb_api_key", "password", "client-secret"]
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)
    assert hide_secrets({"x": [{name: PLAIN}]}) == {"x": [{name: HIDDEN}]}
    assert hide_secrets({name: None, "seed": 3}) == {name: None, "seed": 3}, "nothing there is nothing to hide"


@pytest.mark.parametrize(
    "name", ["eos_token", "max_new_tokens", "include_num_input_tokens_seen", "tokenizer", "train_tokens_per_second"]
)  # fmt: skip
def test_names_of_other_things(name: str) -> None:
    assert not is_secret(name)
    assert hide_secrets({name: "</s>"}) == {name: "</s>"}


def test_texts_with_secrets() -> None:
    assert hide_in_text(f"401 for {TOKEN}: log in") == f"401 for {HIDDEN}: log in"
    assert hide_in_text("https://me:pw@host/x") == f"https://{HIDDEN}@host/x"
    assert hide_secrets({"model": f"https://user:{PLAIN}@host/m"}) == {"model": f"https://{HIDDEN}@host/m"}


def test_no_file_of_a_run_holds_a_token(tmp_path: Path) -> None:
    """A run that was given one, its resume, and the report: neither the checkpoints' pickles nor the card has it."""
    from train.tiny_run import raw_settings, write_data, write_model

    from tapertune.report import write_html, write_markdown
    from tapertune.runfile.record import read_record
    from tapertune.runfile.settings import check_settings
    from tapertune.train.runner import run

    write_model(tmp_path / "model")
    write_data(tmp_path / "data")
    raw: dict[str, Any] = raw_settings(tmp_path)
    settings = check_settings({**raw, "training": {**raw["training"], "hub_token": PLAIN}})
    assert settings.training["hub_token"] == PLAIN, "Trainer gets it"
    run(settings)
    folder = tmp_path / "run"
    write_html([folder], folder / "report.html")
    write_markdown([folder], folder / "report.md")
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert {"training_args.bin", "README.md", "run.json", "report.html"} <= {path.name for path in written}
    assert not [path for path in written if PLAIN.encode() in path.read_bytes()]
    assert read_record(folder).settings["training"]["hub_token"] == HIDDEN
    again = check_settings(read_record(folder).settings)
    assert "hub_token" not in again.training, "what is hidden is no token"
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in written}
    (tmp_path / "new").touch()
    assert set(modes.values()) == {oct((tmp_path / "new").stat().st_mode & 0o777)}, modes


def test_a_record_of_before_shows_no_token(tmp_path: Path) -> None:
    from tapertune.report.data import RunData

    record = {"settings": {"training": {"hub_token": PLAIN}}}
    data = object.__new__(RunData)
    object.__setattr__(data, "record", record)
    assert PLAIN not in json.dumps(data.section("settings"))


def test_an_error_does_not_show_it() -> None:
    from train.tiny_run import raw_settings

    from tapertune.errors import TapertuneError
    from tapertune.runfile.settings import check_settings

    raw = raw_settings(Path("nowhere"))
    with pytest.raises(TapertuneError, match=r"training\.hub_token is") as caught:
        check_settings({**raw, "training": {**raw["training"], "hub_token": [PLAIN]}})
    assert PLAIN not in str(caught.value)
