"""Silences what libraries say of themselves and nobody who runs tapertune can act on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger

from transformers.utils import logging


@contextmanager
def suppress_logging(*, errors_only: bool = False) -> Iterator[None]:
    """No bars of transformers, no word of ranks, which a run tells itself, and none of ``gradient_checkpointing`` being
    deprecated: older releases know no other name, and peft reads a property of that name.

    Args:
        errors_only: no list of what was newly initialised either, which a run finds out itself.
    """
    ranks = getLogger("tapertune.ranks")
    said, ranks.disabled = ranks.disabled, True
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    if errors_only:
        logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        ranks.disabled = said
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
