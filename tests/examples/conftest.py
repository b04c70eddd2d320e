"""What the tests of examples share: a copy of them, in which they are built."""

import shutil
from pathlib import Path

import pytest

from tests.support.examples import BUILT, MADE, ROOT


@pytest.fixture(scope="session")
def copied() -> Path:
    """A copy of what a caller has. Files keep their times, so that builds do again only what has changed."""
    for folder in ("examples", "protos"):
        shutil.copytree(ROOT / folder, BUILT / folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*MADE))
    return BUILT / "examples"
