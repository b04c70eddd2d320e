"""Counts and hashes what is in a directory that nothing changes: see `docs/verification.md`. Nothing here follows a link.

Each entry is found in its directory, which is open, so that no path is too long.
"""

import collections
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from sandbox_server.domain.snapshot import Contents
from sandbox_server.engines.local.copying import DIRECTORY
from sandbox_server.engines.local.sorting import Lines

_READ = 1 << 20
"""Bytes that are read between two questions whether to go on."""
_UNPRINTED = b"\\\n\r"
"""Characters that some `sha256sum` print in another way. A path with one of them is listed by its hash."""


class Unreadable(Exception):
    """An entry cannot be read. The text says which, and why."""


def contents(top: int, work: Path, check: Callable[[], None]) -> Contents:
    """Returns what is in the directory with the descriptor `top`.

    What is listed of it is sorted in the folder `work`. `check` is called often, and raises what ends this. Raises
    `Unreadable`, and OSError where there is no room in `work`.
    """
    with tempfile.TemporaryFile(dir=work, buffering=0) as file:
        return _contents(top, Lines(file), check)


def _contents(top: int, lines: Lines, check: Callable[[], None]) -> Contents:
    counts: collections.Counter[bytes] = collections.Counter()
    total = 0
    for directory, name, path in _entries(top, check):
        try:
            status = os.lstat(name, dir_fd=directory)
            found = _listed(directory, name, status, _shown(path), check)
        except OSError as error:
            raise _unreadable(error, path) from error
        lines.add(found)
        counts[found[0][:1]] += 1
        total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    digest = hashlib.sha256()
    for line in lines.merged(check):
        digest.update(line + b"\n")
    return Contents(
        files=counts[b"f"],
        folders=counts[b"d"],
        links=counts[b"l"],
        others=counts[b"o"],
        bytes=total,
        sha256=digest.hexdigest(),
    )


def _entries(top: int, check: Callable[[], None]) -> Iterator[tuple[int, bytes, bytes]]:
    """Yields each entry: the descriptor of its directory, its name there, and its path from the top."""
    directory = os.dup(top)
    levels = [(b".", _names(directory, b"."))]
    try:
        while levels:
            path, left = levels[-1]
            if not left:
                levels.pop()
                if levels:
                    directory = _moved(directory, b"..", path)
                continue
            check()
            name = left.pop()
            inside = path + b"/" + name
            yield directory, name, inside
            if stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
                directory = _moved(directory, name, inside)
                levels.append((inside, _names(directory, inside)))
    finally:
        os.close(directory)


def _moved(directory: int, name: bytes, path: bytes) -> int:
    """Returns the descriptor of a directory in or above another, in whose place it comes."""
    try:
        found = os.open(name, DIRECTORY, dir_fd=directory)
    except OSError as error:
        raise _unreadable(error, path) from error
    os.close(directory)
    return found


def _names(directory: int, path: bytes) -> list[bytes]:
    try:
        return [os.fsencode(name) for name in os.listdir(directory)]
    except OSError as error:
        raise _unreadable(error, path) from error


def _unreadable(error: OSError, path: bytes) -> Unreadable:
    return Unreadable(f"{os.fsdecode(path)!a} cannot be read: {error.strerror}")


def _shown(path: bytes) -> bytes:
    if any(one in path for one in _UNPRINTED):
        return b"#" + hashlib.sha256(path).hexdigest().encode()
    return path


def _listed(directory: int, name: bytes, status: os.stat_result, path: bytes, check: Callable[[], None]) -> list[bytes]:
    """Returns the lines of an entry. The first one begins with the letter of its type."""
    mode = b"%o" % stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(status.st_mode):
        return [b"d %s %s" % (mode, path)]
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(name, dir_fd=directory)
        return [b"l %s" % path, b"t %s  %s" % (hashlib.sha256(target + b"\n").hexdigest().encode(), path)]
    if not stat.S_ISREG(status.st_mode):
        return [b"o %s" % path]
    content = _hash(directory, name, check).encode()
    return [b"f %s %d %s" % (mode, status.st_size, path), b"h %s  %s" % (content, path)]


def _hash(directory: int, name: bytes, check: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        while part := os.read(file, _READ):
            check()
            digest.update(part)
    finally:
        os.close(file)
    return digest.hexdigest()
