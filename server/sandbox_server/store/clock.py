"""Whether the clock of the database can be trusted: it runs on, or it was set.

All leases seem to have ended at once when that clock is set forward by minutes, or when another server with another clock
takes the place of the database. Live replicas renew theirs within moments. Two steps between two looks, there and back, are
not noticed: the epochs of the leases then hold back the former holder.
"""

import time

import sqlalchemy as sa

NOW = sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)


class Clock:
    """Compares the clock of the database with the monotonic clock of this process. It belongs to one thread."""

    def __init__(self, lasting: float) -> None:
        """`lasting`, in seconds: that of a lease. A step of a twentieth of it is not noticed."""
        self._lasting = lasting
        self._offset: tuple[float, float] | None = None
        self._doubtful_until = 0.0

    def steady(self, connection: sa.Connection) -> bool:
        """Returns whether the clock has run on for as long as a lease lasts, as far as this process has seen it."""
        before = time.monotonic()
        now: float = connection.execute(sa.select(NOW)).scalar_one()
        after = time.monotonic()
        return self.read(before, now, after)

    def read(self, before: float, now: float, after: float) -> bool:
        """Takes what the clock of the database said between two moments of the monotonic clock. Returns as `steady`."""
        least, most = now - after, now - before
        allowed = self._lasting / 20
        if self._offset is not None:
            former_least, former_most = self._offset
            if least > former_most + allowed or most < former_least - allowed:
                self._doubtful_until = after + self._lasting
        self._offset = least, most
        return after >= self._doubtful_until
