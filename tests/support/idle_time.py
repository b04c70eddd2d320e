"""Time that passes only while there is nothing to do, so that a busy machine makes nothing late."""

import asyncio
import time
from typing import Any

import pytest


def begin(patch: pytest.MonkeyPatch) -> None:
    """Has the monotonic clock stand still while the running loop works, and go at once to its next timer when it has done all.

    For tests without threads and without connections, on asyncio's own loop.
    """
    loop: Any = asyncio.get_running_loop()
    selector = loop._selector
    really, now = selector.select, time.monotonic()

    def select(timeout: float | None = None) -> Any:
        nonlocal now
        if timeout is None:
            return really(None)
        found = really(0)
        if not found:
            now += max(0.0, timeout)
        return found

    patch.setattr(selector, "select", select)
    patch.setattr(time, "monotonic", lambda: now)
