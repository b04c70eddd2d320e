"""Files that the operator gives: encryption keys, tokens, TLS.

They may be replaced while the service runs. Which modes they have is for the operator to decide: the files of a Secret
volume belong to root and have mode 0644, or 0440 with a group of the pod, so that the service's user can read them.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger()

T = TypeVar("T")
RETRY_EVERY = 1.0
"""Seconds between two readings of files that cannot be used: they may be half replaced, or not valid yet."""


def no_passphrase() -> str:
    """Answers the question for a key's passphrase, which OpenSSL otherwise asks on a terminal: raises ValueError."""
    raise ValueError(
        "the key has a passphrase, which nobody is there to give: `openssl pkey -in KEY -out NEW` removes it"
    )


class Reloaded(Generic[T]):
    """What `make` reads from files, read again once one of them was replaced.

    Files that cannot be used are logged and change nothing. Threads may share it.
    """

    def __init__(self, make: Callable[[], T], *paths: Path) -> None:
        """Raises what `make` raises: ValueError for files that cannot be used."""
        self._make = make
        self._paths = paths
        self._seen = self._marks()
        self._retry_at = float("inf")
        self._value = make()

    def __call__(self) -> T:
        """What the files say now, or what they said last."""
        marks, now = self._marks(), time.monotonic()
        if marks != self._seen or now >= self._retry_at:
            self._read(marks, now)
        return self._value

    def _read(self, marks: tuple[object, ...], now: float) -> None:
        names, replaced = [str(one) for one in self._paths], marks != self._seen
        # The marks come before the reading, so that a file that is replaced meanwhile is read once more.
        self._seen, self._retry_at = marks, float("inf")
        try:
            self._value = self._make()
        except ValueError as error:
            self._retry_at = now + RETRY_EVERY
            if replaced:
                log.warning("files_not_reloaded", files=names, error=str(error))
        else:
            log.info("files_reloaded", files=names)

    def _marks(self) -> tuple[object, ...]:
        return tuple(map(_mark, self._paths))


def _mark(path: Path) -> object:
    """What differs once a file was replaced or written to."""
    try:
        found = os.stat(path)  # noqa: PTH116 - twice as fast, and asked for each call
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read(name: str, path: Path) -> bytes:
    """The content of the file that is called `name`. Raises ValueError that says what to do."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{name} {path}: {error.strerror or error}{_access(error, path)}") from None


def _access(error: OSError, path: Path) -> str:
    """What keeps this process out of a file that is there."""
    if not isinstance(error, PermissionError):
        return ""
    who = f": the service runs as user {os.geteuid()}, group {os.getegid()}"
    try:
        found = path.stat()
    except OSError:
        return f"{who}, which may not enter the folder"
    of = f"the file is of user {found.st_uid}, group {found.st_gid}, mode {found.st_mode & 0o7777:04o}"
    return f"{who}; {of}. Let it read the file: in a pod, set fsGroup and a defaultMode of 0440"
