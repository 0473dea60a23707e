from __future__ import annotations

import pytest

from tapertune.bench.speed.models import Base, make_base
from tapertune.bench.speed.setting import Setting

TINY = "bert-2x128"


@pytest.fixture(scope="session")
def setting() -> Setting:
    return Setting.model_validate({"batch": 2, "length": 16})


@pytest.fixture(scope="session")
def base(setting: Setting) -> Base:
    """The smallest model; subjects copy it and leave it as it is."""
    return make_base(TINY, setting)
