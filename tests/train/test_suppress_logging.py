from __future__ import annotations

import warnings

import pytest
from transformers.utils import logging

from tapertune.train.suppress_logging import suppress_logging


@pytest.mark.parametrize("errors_only", [False, True])
def test_what_was_set_comes_back(errors_only: bool) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with pytest.raises(KeyError), suppress_logging(errors_only=errors_only):
        assert not logging.is_progress_bar_enabled()
        assert (logging.get_verbosity() == logging.ERROR) is errors_only or before[0] == logging.ERROR
        raise KeyError
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_only_one_warning_is_kept_back() -> None:
    with suppress_logging():
        warnings.warn("`gradient_checkpointing` is deprecated and will be removed", FutureWarning, stacklevel=1)
        with pytest.raises(FutureWarning, match="another"):
            warnings.warn("another", FutureWarning, stacklevel=1)
