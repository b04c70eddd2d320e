"""Waiting for what comes about by itself."""

import time
from collections.abc import Callable


def eventually(check: Callable[[], bool], within: float = 10.0) -> None:
    """Returns once `check` holds."""
    end = time.monotonic() + within
    while not check():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)
