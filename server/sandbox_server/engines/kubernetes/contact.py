"""Whether the API server answers an informer, why it refuses, and when to ask it again."""

import random
import time

from sandbox_server import engines
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.pace import Pace


class Contact:
    """How the last calls of one informer went."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self.listed = False
        """Whether there has ever been a list, so that what is not remembered was not there then."""
        self.refused: Fault | None = None
        """Why the API server showed nothing when it was last asked, if it said no."""
        self.failures = 0
        """How many calls failed since one lasted."""
        self._failing_since: float | None = None
        self._busy_since: float | None = None

    @property
    def synced(self) -> bool:
        """Whether there has been a list, and the API server answers or has not answered for a moment only."""
        if self._failing_since is None:
            return self.listed
        return self.listed and time.monotonic() - self._failing_since < self._pace.stale_after

    def answered(self) -> None:
        """The API server has shown what it was asked for."""
        self._failing_since = None
        self._busy_since = None
        self.refused = None

    def lasted(self) -> None:
        """A watch has lasted. One that did not is no reason to come again at once, however well it began."""
        self.failures = 0

    def failed(self) -> None:
        """A call has failed."""
        self.failures += 1
        if self._failing_since is None:
            self._failing_since = time.monotonic()

    def explain(self, error: Exception) -> None:
        """Shows why the last call failed. That there is no answer explains nothing, nor does a short `engines.Busy`."""
        if isinstance(error, engines.Busy):
            if self._busy_since is None:
                self._busy_since = time.monotonic()
            lasted = time.monotonic() - self._busy_since
            self.refused = None if error.passing_for(lasted, self._pace.busy_after) else error.fault
        else:
            self._busy_since = None
            self.refused = error.fault if isinstance(error, engines.Refused) else None

    def delay(self, error: Exception) -> float:
        """Returns the seconds until the next call."""
        doubled = self._pace.retry_first * 2.0 ** min(self.failures - 1, 10)
        backoff = min(self._pace.watch_retry_most, doubled) * random.uniform(0.5, 1.0)
        asked_for = error.retry_after if isinstance(error, engines.Unreachable) else 0.0
        return max(backoff, asked_for)
