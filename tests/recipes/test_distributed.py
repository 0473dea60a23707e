"""The files for ``accelerate launch``: accelerate reads them, and they are no run files."""

from __future__ import annotations

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from tapertune.runfile.recipes import recipe_files, recipe_folder

FILES = {path.stem: path for path in (recipe_folder() / "distributed").glob("*.yaml")}
KINDS = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed-zero2": "DEEPSPEED", "deepspeed-zero3": "DEEPSPEED"}


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_it(name: str) -> None:
    config = load_config_from_file(str(FILES[name]))
    assert config.distributed_type == KINDS[name] and config.num_processes == 8
    if name == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
    if name.startswith("deepspeed"):
        assert config.deepspeed_config["zero_stage"] == int(name[-1])


def test_they_are_not_listed_among_runs() -> None:
    assert set(FILES) == set(KINDS)
    assert not [name for name in recipe_files() if name.startswith("distributed")]
