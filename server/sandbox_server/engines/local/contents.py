"""Copies the content of a file, with its holes, and without copying where the file system can share it."""

import errno
import fcntl
import os
from collections.abc import Callable

_FICLONE = 0x40049409
CHUNK = 16 << 20
"""Bytes that are copied between two questions whether to go on: a disk takes them within a second."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


class Contents:
    """Copies the contents of files of one file system to another, or the same. Remembers what it cannot do there.

    `check` is called often, and raises what ends the copy.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._clones = True

    def copy(self, reading: int, writing: int) -> None:
        """Gives the empty file `writing` the content of the file `reading`. Raises OSError.

        Of a file that changes meanwhile it is what was there until it ended at first, or ends now.
        """
        if self._cloned(reading, writing):
            return
        size = os.fstat(reading).st_size
        at = 0
        while (found := _data(reading, at)) is not None and at < size:
            at, until = found
            until = min(until, size)
            while at < until:
                self._check()
                count = _chunk(reading, writing, min(CHUNK, until - at), at)
                at = at + count if count else size
        os.ftruncate(writing, min(size, os.fstat(reading).st_size))

    def _cloned(self, reading: int, writing: int) -> bool:
        """Has the file system share the content, where it can."""
        if not self._clones:
            return False
        try:
            fcntl.ioctl(writing, _FICLONE, reading)
        except OSError as error:
            if error.errno in _FULL:
                raise
            # Others are about this one file.
            self._clones = error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.ENOSYS)
            return False
        return True


def _data(file: int, at: int) -> tuple[int, int] | None:
    """Returns where the next data of a file begins and ends; None if there is none."""
    try:
        begin = os.lseek(file, at, os.SEEK_DATA)
        return begin, os.lseek(file, begin, os.SEEK_HOLE)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


def _chunk(reading: int, writing: int, most: int, at: int) -> int:
    """Copies at most so many bytes, at the same place in both files. Returns their number; 0 at the end."""
    try:
        return os.copy_file_range(reading, writing, most, at, at)
    except OSError as error:
        if error.errno in _FULL:
            raise
    # Between file systems, and on some that have no such call.
    os.lseek(writing, at, os.SEEK_SET)
    return os.sendfile(writing, reading, at, most)
