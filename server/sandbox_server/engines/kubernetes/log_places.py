"""Places in the log of a container, and how a stream that begins earlier comes to one.

The API server takes only a second to begin at, and several lines can have the same time, also out of order: stdout and stderr
are written at once. A place is therefore counted: it is after the Nth of the lines whose time is in a second or later. With
the log as it was, a stream from that second on has the same line as its Nth. If the Nth has another time, the log has been
rotated or is of another container.
"""

import re
from dataclasses import dataclass

from sandbox_server import engines
from sandbox_server.engines.kubernetes.log_lines import SECOND

_POSITION = re.compile(r"([-0-9a-zA-Z]{1,64}\.\d{1,9})\.(\d{1,11})\.(\d{1,12})\.(\d{1,20})\.(\d{1,12})\Z", re.ASCII)
DISORDER = 1
"""Seconds by which a line may be written after one with a later time. Where a clock is set back further, lines are not
counted, and a place is found by its time alone."""


@dataclass(frozen=True, slots=True)
class Place:
    """After the line with number `count`, whose time is `time`, of those from `second` on; after `offset` bytes of it if that
    is not 0. `count` is 0 where it is not known."""

    second: int
    count: int
    time: int
    offset: int

    def named(self, container: str) -> str:
        """Returns the position that callers see."""
        return f"{container}.{self.second}.{self.count}.{self.time}.{self.offset}"


def parsed(position: str) -> tuple[str, Place]:
    """Returns the container and the place of a position. Raises `engines.BadPosition`."""
    found = _POSITION.match(position)
    if found is None:
        raise engines.BadPosition
    second, count, time, offset = map(int, found.groups()[1:])
    if second > time // SECOND:
        raise engines.BadPosition
    return found[1], Place(second, count, time, offset)


class Count:
    """Counts the lines of a stream that begins with the second `first`, and makes places of them."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._lines: dict[int, int] = {}
        self._last = Place(0, 0, 0, 0)

    def line(self, time: int) -> None:
        """Counts the next line."""
        second = time // SECOND
        latest = max((second, *self._lines))
        base = max(self._first, latest - DISORDER)
        if second < base:
            self._last = Place(second, 0, time, 0)
            return
        self._lines[second] = self._lines.get(second, 0) + 1
        if len(self._lines) > DISORDER + 1:
            self._lines = {one: lines for one, lines in self._lines.items() if one >= base}
        self._last = Place(base, sum(self._lines.values()), time, 0)

    def place(self, offset: int) -> Place:
        """Returns the place in the line that was counted last, after `offset` bytes of it, or after all of it if that is 0."""
        return Place(self._last.second, self._last.count, self._last.time, offset)
