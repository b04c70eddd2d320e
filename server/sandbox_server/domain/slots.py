"""The moments at which the snapshots of a schedule are due. All are in UTC, which has no summer time: each kind is evenly spaced."""

import functools
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sandbox_server.domain import errors

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
TAKES = "must be `daily HH:MM`, `hourly :MM` or `weekly DAY HH:MM` in UTC, such as `daily 02:00`, `hourly :15`, `weekly sun 02:00`"

_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
_EVERY = {"hourly": timedelta(hours=1), "daily": timedelta(days=1), "weekly": timedelta(weeks=1)}
_SYNTAX = re.compile(
    rf"(?P<kind>hourly|daily|weekly)( (?P<day>{'|'.join(DAYS)}))? (?P<hour>[01]\d|2[0-3])?:(?P<minute>[0-5]\d)",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Slots:
    """The moments that are a multiple of `every` away from `first`."""

    every: timedelta
    first: datetime

    def latest(self, at: datetime) -> datetime:
        """Returns the last slot that is not after a moment."""
        return self.first + (at - self.first) // self.every * self.every

    def following(self, at: datetime) -> datetime:
        """Returns the first slot after a moment."""
        return self.latest(at) + self.every

    def between(self, after: datetime, before: datetime) -> int:
        """Returns the number of slots after a moment and before a slot."""
        return max(0, (before - self.following(after)) // self.every)


def written(text: str) -> str:
    """Returns `text` as it is stored: in lower case, with single spaces."""
    return " ".join(text.lower().split())


@functools.lru_cache(1024)
def parsed(text: str, field: str = "when") -> Slots:
    """Returns the slots that a stored text describes. Raises `errors.Invalid` with `field` as the bad field."""
    match = _SYNTAX.fullmatch(text)
    wanted = {"hourly": (False, False), "daily": (False, True), "weekly": (True, True)}
    if match is None or (match["day"] is not None, match["hour"] is not None) != wanted[match["kind"]]:
        raise errors.Invalid((errors.Violation(field, TAKES),))
    days = DAYS.index(match["day"]) if match["day"] else 0
    first = _MONDAY + timedelta(days=days, hours=int(match["hour"] or 0), minutes=int(match["minute"]))
    return Slots(_EVERY[match["kind"]], first)
