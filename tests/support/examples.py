"""Where the tests build the examples, and with which environment."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILT = ROOT / ".callers"
"""A copy of the examples, with what was built of them."""
MADE = (".venv", "gen", "dist", "node_modules", "target")
"""What somebody who followed the page has in the examples themselves."""
ENVIRONMENT = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
