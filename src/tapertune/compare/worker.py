"""A process that makes one run: its output goes to a log, its record to the process that started it, and it ends when
that one does. Importing this loads all that a run needs, so that processes forked from here start at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from .jobs import Job
from .perform import perform

_LOOK = 2.0  # seconds between two looks at whether the starting process is there


def work(job: Job, scratch: Path, log: Path, results: Connection, parent: int) -> None:
    """Makes a run and sends ("done", record, events) or ("failed", reason)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the starting process, which ends this one
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _redirect(log)
    try:
        record, events = perform(job, scratch)
    except BaseException as error:
        traceback.print_exc()
        sys.stderr.flush()
        results.send(("failed", f"{type(error).__name__}: {' '.join(str(error).split())}"))
    else:
        results.send(("done", record, events))
    results.close()


def _end_with(parent: int) -> None:
    while psutil.pid_exists(parent):
        time.sleep(_LOOK)
    os._exit(1)


def _redirect(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
