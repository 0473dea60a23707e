"""The blocks of a run file, each checked by itself."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..layer_cache.settings import CacheSettings
from ..tasks import Task, declare
from ..tasks.csv_files import CsvFormat


class Block(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TaskBlock(BaseModel):
    """What to learn, and where its rows are. Other keys are fields of the task itself, which checks them."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    name: str = Field(description="a GLUE task, text_classification or regression")
    data: str | None = Field(None, description="folder of the data, or sample for the one that is shipped")
    train: str | None = Field(None, description="training file, instead of a folder")
    validation: str | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="validation file, instead of a folder; or the share of the training rows to hold out, 0.1"
    )
    delimiter: str | None = Field(
        None, description="of CSV files: a character, or comma, semicolon, tab, pipe, space; none: by the file's ending"
    )
    encoding: str | None = Field(None, description="of CSV files, such as latin-1; none: UTF-8, or as their marks say")
    quotes: bool = Field(True, description="fields of CSV files may be quoted; false: a quote is text")
    hub: str | None = Field(None, description="data set on the hub, as NAME or NAME:CONFIGURATION")
    max_length: int = Field(0, gt=0, description="tokens at which texts are cut; without it, the task's own")
    train_rows: int | None = Field(None, gt=0, description="take the first so many training rows")
    validation_rows: int | None = Field(None, gt=0, description="take the first so many validation rows")
    skip_bad_rows: bool = Field(False, description="leave out rows that cannot be used, however many")
    stream: bool = Field(False, description="read training rows as they are needed (with training.max_steps)")

    @property
    def fields(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    @property
    def form(self) -> CsvFormat:
        """How CSV files are written."""
        return CsvFormat(delimiter=self.delimiter, encoding=self.encoding, quotes=self.quotes)

    def declaration(self) -> Task:
        """The task's declaration.

        Raises:
            TapertuneError: no such task, or a field that is no setting of it or has a wrong value.
        """
        _ = self.form  # checked too
        changes: dict[str, Any] = {} if not self.max_length else {"max_length": self.max_length}
        if self.hub is not None:
            name, _, configuration = self.hub.partition(":")
            changes["hub"] = (name, configuration)
        return dataclasses.replace(declare(self.name, self.fields, list(TaskBlock.model_fields)), **changes)


class MethodBlock(BaseModel):
    """The method's name; every other key goes to its config, which checks it."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    name: str = Field(description="a method, or full or head")

    @property
    def fields(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class HeadBlock(Block):
    """What holds for parameters outside the adapter, such as the classifier: the optimizer's settings, and dropout."""

    learning_rate: float | None = Field(None, gt=0, description="learning rate; none: that of the adapter")
    weight_decay: float | None = Field(None, ge=0, description="weight decay; none: that of the adapter")
    dropout: float | None = Field(None, ge=0, lt=1, description="before the classifier; none: the model's own")


class EarlyStoppingBlock(Block):
    """When to end training before its last step; ``training.metric_for_best_model`` says what is looked at."""

    patience: int = Field(ge=1, description="evaluations in a row that may be no better than the best")
    threshold: float = Field(0.0, ge=0, description="how much better the metric has to be to count")


class CacheBlock(Block):
    """What enters the lowest layer that trains is kept by row, so that later epochs begin there."""

    memory: int | str = Field("2GiB", description="bytes of rows kept in memory, such as 2GiB")
    disk: int | str = Field(0, description="bytes of rows kept in a file beyond these; 0: no file")
    dtype: Literal["auto", "bfloat16"] = Field("auto", description="of what is kept; auto: as it is computed")
    folder: str | None = Field(None, description="of that file, where later runs find it; none: gone with the run")
    dropout: Literal["keep", "off"] = Field(
        "keep", description="of frozen layers; keep: a model that has any is refused, off: switched off in these"
    )
    layers: str | None = Field(None, description="path of the model's list of layers; none: the architecture's")

    def settings(self) -> CacheSettings:
        """The settings, checked.

        Raises:
            TapertuneError: a size that is none, or a folder without a limit.
        """
        return CacheSettings(**self.model_dump())


class QuantizationBlock(Block):
    """How bitsandbytes quantises the base model's linear layers while it is loaded; the head stays whole."""

    bits: Literal[4, 8] = Field(description="4 or 8")
    type: Literal["nf4", "fp4"] = Field("nf4", description="of the numbers of 4 bits: nf4 or fp4")
    double: bool = Field(False, description="quantise the scales of 4 bits too")
    compute_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="of products with weights of 4 bits; none: dtype"
    )
