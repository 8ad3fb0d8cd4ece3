"""`python tests/fuzz --seconds 60 --seed 1 --targets bus files`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # where `fuzz` is, and other helpers of the tests

from fuzz.command import main  # noqa: E402

sys.exit(main())
