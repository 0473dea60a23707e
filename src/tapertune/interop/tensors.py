"""Safetensors files from elsewhere, read through the format's own reader with errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import TapertuneError
from .folder import check_inside


@contextmanager
def open_safetensors(path: Path, *, follow: bool = False) -> Iterator[Any]:
    """``safetensors.safe_open`` of a file in a folder from elsewhere; ``follow`` as for ``check_inside``.

    Raises:
        TapertuneError: no such file, a link out of its folder, or one that is damaged or cut short.
    """
    from safetensors import SafetensorError, safe_open

    check_inside(path, follow=follow)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except TapertuneError:
        raise
    # what the reader raises for a header or a tensor that is wrong; torch's are for dtypes that it lacks
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise TapertuneError(f"{path} is damaged or cut short: {reason}") from error


def read_safetensors(path: Path, *, follow: bool = False) -> dict[str, Tensor]:
    """A safetensors file's tensors; ``follow`` as for ``check_inside``.

    Raises:
        TapertuneError: there is no such file, or it is damaged.
    """
    if not path.exists():
        raise TapertuneError(f"no weights {path}")
    with open_safetensors(path, follow=follow) as file:
        return {name: file.get_tensor(name) for name in file.offset_keys()}
