"""``python -m tapertune``: the command, where its script is not installed."""

import sys

from .cli.main import main

sys.exit(main())
