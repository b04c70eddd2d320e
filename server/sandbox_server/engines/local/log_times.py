"""When what was in the log of a sandbox: marks, each of which says that the log ended at a place at a time.

What prints a log knows no times. So the service looks at the end of each log from time to time, and writes down where it has
moved to. What was printed after a time is never before the last mark that is not later than that time.
"""

import contextlib
import math
import os
from pathlib import Path
from typing import NamedTuple

from sandbox_server.engines.local import output

_MOST = 64 * 1024
"""Bytes of the marks of a log, about two thousand. Then every second one is left out: old marks are far apart."""


class Place(NamedTuple):
    """A file of a log by its number, and an offset in it."""

    number: int
    offset: int


class Marks:
    """Writes the marks of the logs of this machine."""

    def __init__(self) -> None:
        self._ends: dict[Path, tuple[str, Place]] = {}

    def look(self, log: Path, now: float) -> None:
        """Notes where a log ends now, unless it ended there before."""
        # A log without marks is sent from further back.
        with contextlib.suppress(OSError):
            identity, end = output.identity(log), _end(log)
            if identity and self._ends.get(log) != (identity, end):
                self._ends[log] = identity, end
                _append(_file(log), f"{math.ceil(now)} {end.number} {end.offset}\n".encode())

    def forget(self, log: Path) -> None:
        """Forgets a log that is no longer looked at."""
        self._ends.pop(log, None)


def place(log: Path, since: float) -> Place | None:
    """Returns the place of the last mark that is not later than a time; None if there is none."""
    found = None
    with contextlib.suppress(OSError):
        for line in _read(_file(log)).split(b"\n"):
            words = line.split(b" ")
            # The last line may be half written.
            if len(words) == 3 and all(one.isdigit() and len(one) <= 15 for one in words) and int(words[0]) <= since:
                found = Place(int(words[1]), int(words[2]))
    return found


def _file(log: Path) -> Path:
    return log.with_name(f"{log.name}.times")


def _end(log: Path) -> Place:
    number = output.numbers(log)[-1:]
    size = 0
    with contextlib.suppress(OSError):
        size = os.lstat(log).st_size
    return Place(number[0] + 1 if number else 1, min(size, output.MOST))


def _read(path: Path) -> bytes:
    descriptor = output.opened(path)
    try:
        return os.pread(descriptor, 2 * _MOST, 0)
    finally:
        os.close(descriptor)


def _append(path: Path, mark: bytes) -> None:
    descriptor = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600
    )
    try:
        os.write(descriptor, mark)
        full = os.fstat(descriptor).st_size > _MOST
    finally:
        os.close(descriptor)
    if full:
        kept = path.with_name(f"{path.name}.new")
        kept.unlink(missing_ok=True)
        kept.write_bytes(b"".join(line + b"\n" for line in _read(path).split(b"\n")[:-1:2]))
        kept.rename(path)
