"""Peak memory of a variant, alone in a process: ``python -m tapertune.benchmark.peak_memory < JOB``."""

from __future__ import annotations

import json
import subprocess
import sys

from ..errors import TapertuneError
from .setting import Setting


def peak_rss(model: str, variant: str, setting: Setting) -> int:
    """The most memory that a process had in which the variant took a step, its optimizer's state in place.

    Raises:
        RuntimeError: the process failed.
    """
    job = {"model": model, "variant": variant, "setting": setting.model_dump()}
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"peak memory of {variant} in {model}: {reason[-1]}")
    return int(done.stdout)


def main() -> int:
    job = json.loads(sys.stdin.read())
    from ..runfile.environment import peak_rss_bytes
    from .base_models import make_base
    from .variants import build

    setting = Setting.model_validate(job["setting"])
    try:
        setting.prepare()
        base = make_base(job["model"], setting)
        candidate = build(job["variant"], base)
    except TapertuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for batch in (base.small_batch(), base.batch):  # the first makes the optimizer's state, at little cost
        candidate.batch = batch
        candidate.step()
    print(peak_rss_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
