"""An outage of the service during a stream that goes on after it."""

import time
from collections.abc import Callable

import grpc

from sandbox_client import errors, retry

SILENCE = 3.0
"""Seconds without contact after which an outage is reported. A restart of the service takes about one."""

PATIENCE = 30.0
"""Seconds without contact after which a transfer of a file fails: as long as a call is tried."""

_BROKEN = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.RESOURCE_EXHAUSTED)
"""Codes with which gRPC itself, or a proxy, breaks a stream off. Those of the service come with a reason."""

Lost = Callable[[errors.ServiceError], None]
Back = Callable[[], None]


class Outage:
    """Calls `lost` once in an outage, after SILENCE seconds, and `back` at its end if `lost` was called."""

    def __init__(self, lost: Lost, back: Back) -> None:
        self._lost = lost
        self._back = back
        self._since: float | None = None
        self._reported = False

    def last(self, error: errors.ServiceError) -> None:
        """Takes in that the service was not reached."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if now - self._since >= SILENCE and not self._reported:
            self._reported = True
            self._lost(error)

    def end(self) -> None:
        """Takes in that the service was reached."""
        if self._reported:
            self._back()
        self._since = None
        self._reported = False


class Tries:
    """The tries of a stream that is read on where it was cut, with the delays between them."""

    def __init__(
        self,
        timeout: float | None,
        lost: Lost = lambda _error: None,
        back: Back = lambda: None,
        patience: float | None = None,
    ) -> None:
        """`patience` is in seconds without contact; None for no limit."""
        self._schedule = retry.Schedule(timeout)
        self._outage = Outage(lost, back)
        self._patience = patience
        self._patience_end: float | None = None

    def left(self) -> float | None:
        """Returns the seconds that are left, None without a limit."""
        return self._schedule.left()

    def reached(self) -> None:
        """Takes in a message."""
        self._schedule.succeeded()
        self._outage.end()
        self._patience_end = None

    def delay(self, error: errors.ServiceError | None) -> float:
        """Returns the seconds until the next try after `error`, or without one after a cut. Raises what ends the tries."""
        broken = error is not None and not error.reason and error.code in _BROKEN
        if error is None or broken:
            why = f": {error.message}" if error is not None else ""
            error = errors.Unavailable(f"the stream was cut{why}", grpc.StatusCode.UNAVAILABLE)
        delay = self._schedule.delay(error)
        if self._patience_end is None:
            # What breaks a stream can be for ever, for example a proxy that takes no large messages.
            self._patience_end = retry.end_after(PATIENCE if broken else self._patience)
        if retry.seconds_until(self._patience_end) == 0:
            raise error
        self._outage.last(error)
        return delay
