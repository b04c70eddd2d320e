"""Waits for conditions that become true without further action."""

import time
from collections.abc import Callable

PATIENCE = 3.0
"""By what every bound of the tests is multiplied: a machine that runs much else is that much slower. A test that passes
never waits longer for it."""


def eventually(check: Callable[[], bool], within: float = 10.0) -> None:
    """Returns once `check` holds."""
    end = time.monotonic() + within * PATIENCE
    while not check():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)
