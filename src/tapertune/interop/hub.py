"""The Hub: names that are valid there, what a base's card says, and folders that are published."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import TapertuneError, bad_value, shown
from ..redaction import hide_in_text

PUBLISHED = (
    "README.md", "adapter_config.json", "adapter_model.safetensors", "adapters.safetensors", "*.gguf", "config.json",
    "generation_config.json",
    "model.safetensors", "model.safetensors.index.json", "model-*.safetensors", "task.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt", "spm.model",
    "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
"""What of a folder is published: the model and its card. Records, events and checkpoints name machines and files."""


def is_hub_name(name: str) -> bool:
    """Whether it is a repository's name, as OWNER/NAME or NAME, and no folder here."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def licence_of(base: str) -> str | None:
    """The licence that a base model's card names, where the card is on this machine: in its folder, or in the cache."""
    from huggingface_hub import ModelCard, try_to_load_from_cache

    path: Any = Path(base) / "README.md"
    if not path.is_file():
        path = try_to_load_from_cache(base, "README.md") if is_hub_name(base) else None
    if not isinstance(path, str | Path):
        return None
    try:
        licence = ModelCard.load(path, ignore_metadata_errors=True).data.to_dict().get("license")
    except (OSError, ValueError):  # somebody's file
        return None
    return licence if isinstance(licence, str) and licence.isprintable() and len(licence) < 60 else None


def check_push(repository: str) -> None:
    """Can a folder be published there? Asked before training, as far as that can be told without the network.

    Raises:
        TapertuneError: it is no repository's name, this process may not use the network, or has no token.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise bad_value("--push-to-hub", repository, "OWNER/NAME of a repository on the Hub") from error
    if constants.HF_HUB_OFFLINE:
        raise TapertuneError("--push-to-hub needs the network, and HF_HUB_OFFLINE is set: take it away, or push later")
    if get_token() is None:
        raise TapertuneError("--push-to-hub needs a token of the Hub: `hf auth login`, or HF_TOKEN")


def push(folder: Path, repository: str, *, private: bool = False) -> str:
    """Publishes a folder's model and card; returns the address.

    Args:
        folder: of a run or an export.
        repository: OWNER/NAME; it is made where there is none.
        private: make it for its owner alone.

    Raises:
        TapertuneError: as ``check_push``; the Hub refuses, or is not to be reached.
    """
    from huggingface_hub import HfApi

    check_push(repository)
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="tapertune")
    try:
        name = api.create_repo(repository, private=private, exist_ok=True).repo_id
        message = "Published by tapertune"
        api.upload_folder(
            repo_id=name, folder_path=folder, allow_patterns=list(PUBLISHED), ignore_patterns=["checkpoint-*/**"],
            commit_message=message,
        )  # fmt: skip
    except Exception as error:  # of the Hub's library and of whichever client it speaks through
        reason = hide_in_text(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
        raise TapertuneError(f"{str(folder)!r} is not published as {shown(repository)}: {reason}") from error
    return f"{api.endpoint}/{name}"
