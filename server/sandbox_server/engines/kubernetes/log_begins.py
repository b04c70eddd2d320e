"""Where the stream of a log begins, and which of its first lines are left out.

`second` is the second from which on lines are asked for; None for all. `wanted` takes the lines in order, and returns from
which byte on a line is sent, or None to leave it out. `begun`: whether no line is looked for any more that must be there.
"""

import copy
from dataclasses import dataclass
from typing import Protocol, Self

from sandbox_server.engines.kubernetes import log_places
from sandbox_server.engines.kubernetes.log_lines import SECOND
from sandbox_server.engines.kubernetes.log_places import Place

DISORDER = log_places.DISORDER * SECOND
"""By how much a line may be written after one with a later time."""


class Lost(Exception):
    """The log no longer has the line after which a stream should begin. `time` is that of the line."""

    def __init__(self, time: int) -> None:
        super().__init__()
        self.time = time


class Begin(Protocol):
    """See above."""

    begun: bool

    @property
    def second(self) -> int | None:
        """From when on lines are asked for."""

    def wanted(self, time: int) -> int | None:
        """Takes the next line. Raises `Lost`."""

    def end(self) -> None:
        """Takes the end of the stream. Raises `Lost`."""

    def anew(self) -> Self:
        """Returns the same beginning for another stream."""


@dataclass(slots=True)
class Since:
    """Every line that is not older than a time; with 0 all lines."""

    time: int = 0
    begun: bool = True

    @property
    def second(self) -> int | None:
        """The second of that time."""
        return self.time // SECOND if self.time else None

    def wanted(self, time: int) -> int | None:
        """Leaves out older lines, wherever they are."""
        return 0 if time >= self.time else None

    def end(self) -> None:
        """Misses nothing."""

    def anew(self) -> Self:
        """Returns a copy."""
        return copy.copy(self)


@dataclass(slots=True)
class From:
    """The first line that has a time, or with `exclusive` what follows it; and everything after it."""

    time: int
    exclusive: bool = False
    begun: bool = False

    @property
    def second(self) -> int:
        """The second of that time."""
        return self.time // SECOND

    def wanted(self, time: int) -> int | None:
        """Leaves out lines until the one that is looked for, or one that would come after it."""
        if self.begun:
            return 0
        self.begun = time == self.time or time > self.time + DISORDER
        return 0 if self.begun and not (self.exclusive and time == self.time) else None

    def end(self) -> None:
        """Misses nothing."""

    def anew(self) -> Self:
        """Returns a copy that has not begun."""
        return type(self)(self.time, self.exclusive)


@dataclass(slots=True)
class Later:
    """The first line with a later time than this one, and everything after it."""

    time: int
    begun: bool = True
    _passed: bool = False

    @property
    def second(self) -> int:
        """The second of that time."""
        return self.time // SECOND

    def wanted(self, time: int) -> int | None:
        """Leaves out lines until one is later."""
        self._passed = self._passed or time > self.time
        return 0 if self._passed else None

    def end(self) -> None:
        """Misses nothing."""

    def anew(self) -> Self:
        """Returns a copy that has seen no line."""
        return type(self)(self.time)


@dataclass(slots=True)
class After:
    """What follows a place."""

    place: Place
    begun: bool = False
    _seen: int = 0

    @property
    def second(self) -> int:
        """The second from which on the lines of the place are counted."""
        return self.place.second

    def wanted(self, time: int) -> int | None:
        """Leaves out as many lines as the place counts, or all until its time, but for the rest of the last one."""
        if self.begun:
            return 0
        self._seen += 1
        counted = self.place.count > 0
        if self._seen < self.place.count or (not counted and time != self.place.time):
            if counted and time > self.place.time + DISORDER:
                raise Lost(self.place.time)
            return None
        if time != self.place.time:
            raise Lost(self.place.time)
        self.begun = True
        return self.place.offset or None

    def end(self) -> None:
        """Misses the line if it was not found."""
        if not self.begun:
            raise Lost(self.place.time)

    def anew(self) -> Self:
        """Returns a copy that has not begun."""
        return type(self)(self.place)
