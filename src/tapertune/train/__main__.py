"""``python -m tapertune.train < SETTINGS``: one run in a process of its own, so that its peak memory is its alone.

Settings are YAML or JSON on standard input. Exit codes are the command's: 0 done, 1 failed, 2 wrong settings,
130 interrupted, 143 terminated.
"""

from __future__ import annotations

import sys

from ..errors import TapertuneError
from ..runfile.yamlfile import parse
from .openmp import begin


def main() -> int:
    free = begin()
    try:
        raw = parse(sys.stdin.read(), "standard input")
        from ..runfile.settings import check_settings
        from .progress import display_for
        from .runner import run

        settings = check_settings(raw)
        with display_for(settings.name) as display:
            run(settings, display=display, free_threads=free)
    except TapertuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        if str(error):
            print(f"error: {error}", file=sys.stderr)
        return 143 if type(error).__name__ == "Terminated" else 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
