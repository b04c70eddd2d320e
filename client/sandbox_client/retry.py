"""When calls are repeated: the service was not reached or not ready, and there is time left.

Which errors are repeated and how long the delays are is in the service config of the contract (see `policy`). gRPC's own
retries are not used: they end after five tries, do not wait as long as the service asks for, and report no outage.

Every mutation has a request id. It takes effect once, even if an earlier try was carried out and its answer lost.
"""

import random
import time

from sandbox_client import errors, policy

FOREVER = 1e9
"""A timeout of so many seconds or more means no timeout. gRPC fails a call at once if its deadline is too far away."""
PATIENCE = 120.0
"""Seconds for which a wait tolerates an error that may pass. An autoscaler needs about a minute to add a node."""


class Schedule:
    """The delays between the tries of a call, or of a watch since its last message."""

    def __init__(self, timeout: float | None) -> None:
        """`timeout` is in seconds, for all tries together; None for no limit."""
        self._end = end_after(timeout)
        self._failures = 0

    def left(self) -> float | None:
        """Returns the seconds that are left, None without a limit."""
        return seconds_until(self._end)

    def succeeded(self) -> None:
        """Makes the next delay a first delay."""
        self._failures = 0

    def delay(self, error: errors.ServiceError) -> float:
        """Returns the seconds to wait before the next try. Raises `error` if there should be no other try."""
        if error.code not in policy.CALLS.codes:
            raise error
        own = policy.CALLS.delay(self._failures) * random.uniform(0.5, 1.0)
        # Never shorter than the service asks for. Random, so that callers do not come back all at once.
        wait: float = max(own, error.retry_after * random.uniform(1.0, 1.5))
        self._failures = min(self._failures + 1, 16)
        left = self.left()
        if left is not None and wait >= left:
            raise error
        return wait


def end_after(seconds: float | None) -> float | None:
    """Returns the time on the monotonic clock after so many seconds; None if there is no limit."""
    return None if seconds is None or seconds >= FOREVER else time.monotonic() + seconds


def seconds_until(end: float | None) -> float | None:
    """Returns the seconds until `end`, at least 0; None if there is no limit."""
    return None if end is None else max(0.0, end - time.monotonic())
