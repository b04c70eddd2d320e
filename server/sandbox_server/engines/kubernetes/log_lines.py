"""Splits what a kubelet answers to `log?timestamps=true` into lines, each with the time at its beginning.

A container runtime stores a line of more than 16 KiB in parts with a time each. The kubelet joins them again, and gives the time
of the first (cri-client/pkg/logs/logs.go). Where that is left out, being older than what was asked for, the rest comes without
a time.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

SECOND = 1_000_000_000
"""Times are in nanoseconds after 1970."""
_TIME = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ")
TIME_MOST = 40
"""Bytes of the longest time, and more."""


class Piece(NamedTuple):
    """A line, or a part of a long one.

    `time` is that of the line, None if it has none. `begins`, `ends`: whether it has the first and the last byte of the line.
    """

    time: int | None
    data: bytes
    begins: bool
    ends: bool


class Splitter:
    """Splits what it is fed. A piece has at most `most` bytes; a line is held back until it is whole, or as long as that."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rest = b""
        self._time: int | None = None
        self._begins = True

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Yields the pieces that are complete by now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield from self._pieces(line + b"\n", ends=True)
        if len(self._rest) >= self._most:
            whole = len(self._rest) // self._most * self._most
            rest, self._rest = self._rest[whole:], self._rest[:whole]
            yield from self._pieces(self._rest, ends=False)
            self._rest = rest

    def end(self) -> Iterator[Piece]:
        """Yields what is left: a line without its end."""
        rest, self._rest = self._rest, b""
        if rest:
            yield from self._pieces(rest, ends=False)

    def _pieces(self, data: bytes, *, ends: bool) -> Iterator[Piece]:
        if self._begins:
            self._time, length = parsed(data[:TIME_MOST])
            data = data[length:]
        for begin in range(0, len(data), self._most):
            part = data[begin : begin + self._most]
            last = ends and begin + self._most >= len(data)
            yield Piece(self._time, part, self._begins, last)
            self._begins = last


def parsed(line: bytes) -> tuple[int | None, int]:
    """Returns the time at the beginning of a line, None if there is none, and how many bytes it takes."""
    found = _TIME.match(line)
    if found is None:
        return None, 0
    date, fraction, zone = found.groups()
    try:
        at = datetime.fromisoformat((date + zone).decode())
        seconds = int(at.timestamp())
    except (ValueError, OverflowError):
        return None, 0
    return seconds * SECOND + int((fraction or b"").ljust(9, b"0")), found.end()


def moment(time: int) -> datetime:
    """Returns a time as the contract has it, without the nanoseconds below a microsecond."""
    return datetime.fromtimestamp(time // SECOND, UTC).replace(microsecond=time % SECOND // 1000)


def since(second: int) -> str:
    """Returns a second as the API server takes it. It hands on whole seconds, whatever it is given."""
    return datetime.fromtimestamp(second, UTC).isoformat().replace("+00:00", "Z")
