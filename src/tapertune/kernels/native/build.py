"""Compiles the code beside it for the processor at hand, once: later processes load what the first one made.

The library lies in ``$XDG_CACHE_HOME/tapertune`` (``~/.cache/tapertune``), under a name that follows from the source,
the compiler, its options and the processor. It takes a C++ compiler with OpenMP (``$CXX``, else ``c++``), and seconds.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_SOURCES = tuple(Path(__file__).with_name(name) for name in ("lowrank_products.cpp", "sinter.cpp"))
_HEADERS = tuple(Path(__file__).with_name(name) for name in ("simd.hpp", "blocks.hpp"))
# one rounding where a product is added to something; otherwise arithmetic is as it is written
_OPTIONS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-fPIC", "-shared")
_TIMEOUT = 300.0
_DIGEST = hashlib.sha256().digest_size  # bytes at the end of a library


class NotBuilt(Exception):
    """There is no library, and this is why."""


def library() -> ctypes.CDLL | None:
    """The compiled products, made where they are not yet; None where they cannot be."""
    return _loaded()[0]


def why_not() -> str | None:
    """Why there is no library; None where there is one."""
    return _loaded()[1]


@functools.cache
def _loaded() -> tuple[ctypes.CDLL | None, str | None]:
    try:
        return _load(), None
    except NotBuilt as missing:
        return None, str(missing)


def _load() -> ctypes.CDLL:
    if sys.platform != "linux":
        raise NotBuilt(f"it is built on Linux, and this is {sys.platform}")
    command = compiler()
    name = f"kernels-{_digest(command)}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tapertune"
    try:
        return _made(command, folder / name)
    except OSError:  # no home, or one that is read-only: for this process alone
        try:
            with tempfile.TemporaryDirectory(prefix="tapertune-") as own:
                return _made(command, Path(own) / name)
        except OSError as error:
            raise NotBuilt(str(error)) from error


def _made(command: list[str], path: Path) -> ctypes.CDLL:
    if not _is_whole(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _compile(command, path)
    return _open(path)


def _is_whole(path: Path) -> bool:
    """Whether a library is there and is what was written: loading one that is cut short kills the process."""
    try:
        data = path.read_bytes()
    except OSError:
        return False
    return data[-_DIGEST:] == hashlib.sha256(data[:-_DIGEST]).digest()


def compiler() -> list[str]:
    """The compiler's command.

    Raises:
        NotBuilt: there is none.
    """
    named = os.environ.get("CXX")
    command = shlex.split(named) if named else ["c++"]
    if not command or shutil.which(command[0]) is None:
        raise NotBuilt(f"there is no C++ compiler: {named or 'c++'} is not found (CXX names another)")
    return command


def _digest(command: list[str]) -> str:
    version = _run([*command, "--version"])
    texts = [path.read_text() for path in (*_SOURCES, *_HEADERS)]
    what = "\0".join([version, *command, *_OPTIONS, _processor(), *texts])
    return hashlib.sha256(what.encode()).hexdigest()[:16]


def _processor() -> str:
    """What ``-march=native`` depends on: a home may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))


def _compile(command: list[str], target: Path) -> None:
    """Writes the library under another name first, as other processes may be looking for it."""
    handle, made = tempfile.mkstemp(dir=target.parent, prefix=f"{target.stem}-", suffix=".part")
    os.close(handle)
    try:
        _run([*command, *_OPTIONS, *map(str, _SOURCES), "-o", made])
        Path(made).chmod(0o755)
        with Path(made).open("rb+") as file:  # loaders do not look at what follows
            digest = hashlib.sha256(file.read()).digest()
            file.write(digest)
        os.replace(made, target)
    finally:
        Path(made).unlink(missing_ok=True)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuilt(f"{command[0]} could not be run: {error}") from error
    if done.returncode:
        raise NotBuilt(f"`{shlex.join(command)}` failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


def _open(path: Path) -> ctypes.CDLL:
    # torch's own OpenMP runtime has the same name and is loaded already, so that both share one pool of threads
    library = ctypes.CDLL(str(path))
    index, pointer, real = ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_double
    sizes, factor = [index] * 3, [pointer, index, index]
    signatures = {
        "project": [*sizes, pointer, index, pointer, *factor, pointer, index],
        "expand": [*sizes, pointer, index, *factor, pointer, real, pointer, pointer, pointer, index],
        "input_and_factor_grads": [*sizes, pointer, index, *factor, pointer, real, *[pointer, index] * 2, pointer],
        "sinter": [*sizes, *[pointer] * 2, *[real] * 3, *[pointer] * 5],
        "weight_grad": [*sizes, pointer, index, pointer, index, *[pointer] * 4, ctypes.c_bool, pointer, pointer],
    }
    for name, arguments in signatures.items():
        for dtype in ("float32", "float64"):
            function = getattr(library, f"{dtype}_{name}")
            function.argtypes, function.restype = arguments, None
    return library
