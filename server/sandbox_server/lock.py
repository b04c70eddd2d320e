"""Locks what only one service at a time may use. The kernel releases a lock when the process ends, for whatever reason."""

import fcntl
import os
from pathlib import Path


def take(file: Path, setting: str, used: Path) -> int:
    """Locks `file`, which is created if missing, and returns its descriptor. Closing the descriptor releases the lock.

    `used` is the path that the lock protects, and `setting` the name of the setting that gives it. Raises OSError if
    another process has the lock, or if the file cannot be locked.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unlockable(file, setting, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        message = f"{used} is in use by another service: stop that one, or give this one another {setting}"
        raise OSError(f"{setting}: {message}") from None
    except OSError as error:
        os.close(descriptor)
        raise _unlockable(file, setting, error) from None
    return descriptor


def _unlockable(file: Path, setting: str, error: OSError) -> OSError:
    return OSError(f"{setting}: {file} cannot be locked ({error.strerror}): put it where this user may write")
