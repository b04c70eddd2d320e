"""What the tests of examples share: a copy of them, in which they are built."""

import functools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import examples
from tests.support.examples import BUILT, MADE, MARKS, ROOT
from tests.support.once import once


@pytest.fixture(scope="session")
def copied() -> Path:
    """A copy of what a caller has. Files keep their times, so that builds do again only what has changed."""

    def copy() -> None:
        for folder in ("examples", "protos"):
            shutil.copytree(ROOT / folder, BUILT / folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*MADE))

    once(MARKS / "copied", copy)
    return BUILT / "examples"


@pytest.fixture(scope="session")
def build(copied: Path) -> Callable[[str], Path]:
    """Builds the example of a language, once, and returns its folder."""

    def make(language: str) -> None:
        for command in examples.commands(language)[:-1]:
            done = subprocess.run(["bash", "-ec", command], cwd=copied / language, env=examples.BUILDING)
            if done.returncode != 0 and language == "java" and examples.PLUGIN is None:
                pytest.skip("neither Maven's registry nor the machine has the plugin of protoc for Java: see the page")
            assert done.returncode == 0

    def built(language: str) -> Path:
        once(MARKS / language, functools.partial(make, language))
        return copied / language

    return built
