"""Sorts more lines than the memory of the service is to hold: parts of them, in a file, and then all."""

import heapq
import os
from collections.abc import Callable, Iterable, Iterator
from io import FileIO

PART = 20_000
"""Lines that are sorted at once, during which the service does nothing else: some milliseconds."""
_READ = 1 << 14
"""Bytes of a part that are in the memory while all are merged."""


class Lines:
    """Lines without a line feed."""

    def __init__(self, file: FileIO) -> None:
        """`file` is empty, and for these lines alone."""
        self._file = file
        self._last: list[bytes] = []
        self._ends = [0]

    def add(self, lines: Iterable[bytes]) -> None:
        """Adds lines. Raises OSError."""
        self._last += lines
        if len(self._last) >= PART:
            self._put_down()

    def merged(self, check: Callable[[], None]) -> Iterator[bytes]:
        """Yields all lines, sorted by their bytes. `check` is called often. Raises OSError."""
        self._put_down()
        parts = [self._part(begin, end, check) for begin, end in zip(self._ends, self._ends[1:], strict=False)]
        return heapq.merge(*parts)

    def _put_down(self) -> None:
        left = memoryview(b"".join(line + b"\n" for line in sorted(self._last)))
        self._last.clear()
        end = self._ends[-1] + len(left)
        while left:
            left = left[self._file.write(left) :]
        self._ends.append(end)

    def _part(self, begin: int, end: int, check: Callable[[], None]) -> Iterator[bytes]:
        rest = b""
        while begin < end:
            check()
            read = os.pread(self._file.fileno(), min(_READ, end - begin), begin)
            begin += len(read)
            *lines, rest = (rest + read).split(b"\n")
            yield from lines
