"""What the tests of examples share: a copy of them, in which they are built."""

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILT = ROOT / ".callers"
"""A copy of the examples, with what was built of them."""
MADE = (".venv", "gen", "dist", "node_modules", "target")
"""What somebody who followed the page has in the examples themselves."""
ENVIRONMENT = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


@pytest.fixture(scope="session")
def copied() -> Path:
    """A copy of what a caller has. Files keep their times, so that builds do again only what has changed."""
    for folder in ("examples", "protos"):
        shutil.copytree(ROOT / folder, BUILT / folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*MADE))
    return BUILT / "examples"
