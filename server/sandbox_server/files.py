"""Reads the operator's files: encryption keys, tokens, TLS. They may be replaced while the service runs.

Their modes are not checked. The files of a Secret volume belong to root and have mode 0644, or 0440 with a group of the
pod, so that the service's user can read them.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger()

T = TypeVar("T")


def no_passphrase() -> str:
    """Raises ValueError. OpenSSL calls it for the passphrase of a key, which it otherwise asks for on the terminal."""
    raise ValueError(
        "the key has a passphrase, which the service cannot ask for: `openssl pkey -in KEY -out NEW` removes it"
    )


class Reloaded(Generic[T]):
    """A value that `make` reads from files, and reads again after one of them was replaced.

    New files that cannot be used are logged, and the former value stays. Safe to call from several threads.
    """

    def __init__(self, make: Callable[[], T], *paths: Path, again: float) -> None:
        """`again`: seconds until files that cannot be used are read again. Raises what `make` raises: ValueError for such."""
        self._again = again
        self._make = make
        self._paths = paths
        self._seen = self._marks()
        self._retry_at: float | None = None
        self._value = make()

    def __call__(self) -> T:
        """Returns the value of the files as they are now, or the last one if they cannot be used."""
        marks = self._marks()
        now = time.monotonic()
        # One read of the attribute: another thread may set it to None meanwhile.
        retry_at = self._retry_at
        if marks != self._seen or (retry_at is not None and now >= retry_at):
            self._read(marks, now)
        return self._value

    def _read(self, marks: tuple[object, ...], now: float) -> None:
        names = [str(path) for path in self._paths]
        replaced = marks != self._seen
        # The marks are older than the content, so that a file that is replaced meanwhile is read once more.
        self._seen = marks
        self._retry_at = None
        try:
            self._value = self._make()
        except ValueError as error:
            self._retry_at = now + self._again
            if replaced:
                log.warning("files_not_reloaded", files=names, error=str(error))
        else:
            log.info("files_reloaded", files=names)

    def _marks(self) -> tuple[object, ...]:
        return tuple(map(_mark, self._paths))


def _mark(path: Path) -> object:
    """Returns a value that changes when the file is replaced or written to."""
    try:
        found = os.stat(path)  # noqa: PTH116 - twice as fast, and called for each RPC
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read(name: str, path: Path) -> bytes:
    """Returns the content of a file. Raises ValueError that names the file as `name` and says what to do."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{name} {path}: {error.strerror or error}{_access(error, path)}") from None


def _access(error: OSError, path: Path) -> str:
    """Returns why this process has no permission to read a file; empty for another error."""
    if not isinstance(error, PermissionError):
        return ""
    user = f": the service runs as user {os.geteuid()}, group {os.getegid()}"
    try:
        found = path.stat()
    except OSError:
        return f"{user}, which may not enter the folder"
    owner = f"the file is of user {found.st_uid}, group {found.st_gid}, mode {found.st_mode & 0o7777:04o}"
    return f"{user}; {owner}. Let it read the file: in a pod, set fsGroup and a defaultMode of 0440"
