"""Settings check themselves, whatever the method."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest

from tapertune.errors import TapertuneError
from tapertune.methods import METHODS
from tapertune.methods.settings import LowRankSettings, Settings, not_negative, one_of, setting

NO_NUMBERS: tuple[Any, ...] = (True, None, "8", [8], float("nan"), float("inf"), float("-inf"))


def refuses(method: str, field: str, value: Any) -> None:
    with pytest.raises(TapertuneError, match=f"^{field} is ") as error:
        METHODS[method].settings(**{field: value})
    assert "; it must be " in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("method", METHODS)
def test_values_out_of_range_are_refused(method: str) -> None:
    fields = {field.name: field for field in dataclasses.fields(METHODS[method].settings)}
    for value in (0, -1, 1.5, *NO_NUMBERS):
        refuses(method, METHODS[method].rank, value)
    for value in (-0.1, 1, 1.0, *NO_NUMBERS):
        refuses(method, "dropout", value)
    for value in (0, -1.0, *NO_NUMBERS) if "lora_alpha" in fields else ():
        refuses(method, "lora_alpha", value)
    for name in ("threshold", "sparse_lambda"):
        for value in (-1e-9, *NO_NUMBERS) if name in fields else ():
            refuses(method, name, value)
    for value in (-1, 0.5, *NO_NUMBERS) if "projection_prng_key" in fields else ():
        refuses(method, "projection_prng_key", value)


@pytest.mark.parametrize("method", METHODS)
def test_every_field_has_help_and_names_suggest_the_nearest(method: str) -> None:
    kind = METHODS[method].settings
    assert issubclass(kind, Settings)
    for field in dataclasses.fields(kind):
        assert field.metadata["help"]
        if isinstance(field.default, str):
            near = field.default[:-1] + "_"
            with pytest.raises(TapertuneError, match=rf"^unknown {field.name} '{near}': .*Allowed: .*{field.default}"):
                kind(**{field.name: near})


def test_a_setting_of_ones_own() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Own(LowRankSettings):
        r: int = setting(2, "another default")
        mode: str = setting("fast", "how", one_of(("fast", "slow")))
        weight: float = setting(0.0, "how much", not_negative)

    assert (Own().r, Own().lora_alpha, Own(weight=1).weight) == (2, 16, 1)
    with pytest.raises(TapertuneError, match="unknown mode 'slwo': did you mean 'slow'"):
        Own(mode="slwo")
    with pytest.raises(TapertuneError, match="weight is -1; it must be zero or positive"):
        Own(weight=-1)
    with pytest.raises(TapertuneError, match="dropout is 2"):
        Own(dropout=2)
