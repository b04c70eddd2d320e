"""When a call is tried again: the service was not reached or not ready, and time is left.

Every mutation has a request id, so a repeat takes effect once whatever became of the call before it.
"""

import random
import time

import grpc

from sandbox_client import errors

FOREVER = 1e9
"""Seconds from which a time-out is none: over one past the dates that it knows, gRPC fails a call at once."""
PATIENCE = 120.0
"""Seconds for which a wait bears with an error that may pass: an autoscaler needs about one minute for a node."""
FIRST, MOST = 0.05, 5.0
"""Seconds: the first delay is about a round trip, the last keeps a fleet of clients from storming a restart."""


class Schedule:
    """The delays of one call, or of one watch between two messages."""

    def __init__(self, timeout: float | None) -> None:
        """`timeout`: seconds for all tries together; None for no end."""
        self._end = None if timeout is None or timeout >= FOREVER else time.monotonic() + timeout
        self._failures = 0

    def left(self) -> float | None:
        """Seconds that are left; None for no end."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def succeeded(self) -> None:
        """Begins again with the first delay."""
        self._failures = 0

    def delay(self, error: errors.ServiceError) -> float:
        """Seconds to wait before the next try. Raises `error` if there should be none."""
        if error.code is not grpc.StatusCode.UNAVAILABLE:
            raise error
        own = min(MOST, FIRST * 2**self._failures) * random.uniform(0.5, 1.0)
        # What the service asks for is the least; the spread keeps its callers from coming back all at once.
        wait: float = max(own, error.retry_after * random.uniform(1.0, 1.5))
        self._failures = min(self._failures + 1, 16)
        left = self.left()
        if left is not None and wait >= left:
            raise error
        return wait
