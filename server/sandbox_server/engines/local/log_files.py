"""The files of a log, open: they can be read however they are renamed."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sandbox_server import engines
from sandbox_server.engines.local import output

_TRIES = 100
"""How often the files are looked for while they are renamed: each look takes far less time than to fill a file."""


@dataclass(slots=True)
class File:
    """An open file of a log. `complete`: nothing more is written to it."""

    number: int
    descriptor: int
    complete: bool

    @property
    def size(self) -> int:
        """Its size now; a sandbox without isolation may have made it larger than it is."""
        return min(os.fstat(self.descriptor).st_size, output.MOST)


def kept(log: Path) -> list[File]:
    """Returns the files that are kept, in order. The caller closes them. Raises `engines.Unreachable`."""
    for _ in range(_TRIES):
        last = output.numbers(log)[-1:]
        found: list[File] = []
        for number in last:
            with contextlib.suppress(OSError):
                found.append(File(number, output.opened(output.numbered(log, number)), complete=True))
        number = last[0] + 1 if last else 1
        # Missing between the rename of the last file and its first byte.
        with contextlib.suppress(OSError):
            found.append(File(number, output.opened(log), complete=False))
        if output.numbers(log)[-1:] == last:
            return found
        for one in found:
            os.close(one.descriptor)
    raise engines.Unreachable("the log is written too fast to be read")


@contextlib.contextmanager
def opened(files: list[File]) -> Iterator[list[File]]:
    """Closes files at the end of the context."""
    try:
        yield files
    finally:
        for one in files:
            os.close(one.descriptor)
