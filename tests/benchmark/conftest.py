from __future__ import annotations

import pytest

from tapertune.benchmark.base_models import Base, make_base
from tapertune.benchmark.setting import Setting

TINY = "bert-2x128"


@pytest.fixture(scope="session")
def setting() -> Setting:
    return Setting.model_validate({"batch": 2, "length": 16})


@pytest.fixture(scope="session")
def base(setting: Setting) -> Base:
    """The smallest model; variants copy it and leave it as it is."""
    return make_base(TINY, setting)
