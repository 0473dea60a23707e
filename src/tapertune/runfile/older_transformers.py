"""What transformers before 5.0 lacks of what runs are made with, in the form that 5.0 has it. Nothing here acts under
5.0 and later.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from transformers import trainer_utils

if TYPE_CHECKING or hasattr(trainer_utils, "rotate_checkpoints"):
    from transformers import TrainingArguments
    from transformers.trainer_utils import rotate_checkpoints
else:

    @dataclasses.dataclass
    class TrainingArguments(transformers.TrainingArguments):
        """With the names of 5.0: how rows are drawn, and a warm-up whose number of steps may be a share of the run."""

        train_sampling_strategy: str = "random"
        warmup_steps: float = 0

        def __post_init__(self) -> None:
            if 0 < self.warmup_steps < 1:
                self.warmup_ratio, self.warmup_steps = self.warmup_steps, 0
            self.warmup_steps = int(self.warmup_steps)
            self.group_by_length = self.train_sampling_strategy == "group_by_length"
            super().__post_init__()

    def rotate_checkpoints(output_dir: str, save_total_limit: int | None, best_model_checkpoint: str | None) -> None:
        """Deletes the oldest checkpoints, by their steps, and keeps the newest one and the best."""
        if save_total_limit is None or save_total_limit <= 0:
            return
        folders = sorted(Path(output_dir).glob("checkpoint-*"), key=_step)
        protected = {folders[-1]} if folders else set()
        if best_model_checkpoint is not None:
            protected.add(Path(best_model_checkpoint))
        kept = max(save_total_limit, len(protected))
        for folder in [folder for folder in folders if folder not in protected][: max(0, len(folders) - kept)]:
            shutil.rmtree(folder, ignore_errors=True)

    def _step(folder: Path) -> Any:
        number = folder.name.rpartition("-")[2]
        return int(number) if number.isdigit() else -1


__all__ = ["TrainingArguments", "rotate_checkpoints"]
