"""The bounded logs of what a sandbox prints: of its last process, and of the one before.

The process of a sandbox prints into a pipe, and a pump copies the pipe to the log. The pump is a process in a session of
its own: it outlives the service, as the sandbox does, and ends when nothing can print into the pipe any more. It is a
shell with `dd`, which starts in 2 ms; a Python interpreter takes 35 ms and nine times the memory.
"""

import contextlib
import errno
import os
import stat
import uuid
from pathlib import Path

from sandbox_server.engines.local import launch

WORDS_MOST = 4096
"""Bytes at the end of the log that go into the status of a failed process, as many as the kubelet takes."""

_BLOCK = 4096
_BLOCKS = 2048
MOST = _BLOCK * _BLOCKS
"""Bytes of a file of a log. The first file is renamed to end in `.1`, and a new one begins; then that to end in `.2`, and `.1`
is removed. `dd` counts reads, and a read of a small write counts as a block, so that a file of small writes is renamed earlier.
"""

# If the log cannot be written, for example on a full disk, the output is dropped: a sandbox must not wait for its log.
# `dd` prints how many blocks it read, as `12+3 records in`. Fewer than were asked for mean that the input has ended.
_PUMP = f"""
umask 077
n=1
while said=$(dd bs={_BLOCK} count={_BLOCKS} of="$0" 2>&1) || said=$(dd bs={_BLOCK} count={_BLOCKS} of=/dev/null 2>&1)
do
    said=${{said%%" records in"*}}
    said=${{said##*"
"}}
    [ $((${{said%+*}} + ${{said#*+}})) -eq {_BLOCKS} ] || exit 0
    mv -f "$0" "$0.$n" && rm -f "$0.$((n-1))"
    n=$((n+1))
done
"""


def pump(log: Path, printed: int) -> int:
    """Starts a pump from the pipe `printed` to a new log and returns its pid. The log that was there becomes the former one.

    Raises OSError if the log cannot be created or the pump cannot be started.
    """
    for one in _files(former(log)):
        one.unlink()
    for one in _files(log):
        one.rename(former(log).with_name(former(log).name + one.name.removeprefix(log.name)))
    _mark(log).write_text(uuid.uuid4().hex[:ID])
    # Created here and not by the pump, whose errors nobody sees.
    os.close(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        return launch.spawn(["/bin/sh", "-c", _PUMP, str(log)], env, (printed, 0), (nothing, 1), (nothing, 2))
    finally:
        os.close(nothing)


def last(log: Path) -> str:
    """Returns the end of the output, if need be with the end of the file before the last. Empty if there is no log."""
    words = b""
    renamed = numbers(log)
    for path in (log, *(numbered(log, one) for one in renamed[-1:])):
        left = WORDS_MOST - len(words)
        with contextlib.suppress(OSError), path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - left))
            words = file.read(left) + words
    return words.decode(errors="replace")


def former(log: Path) -> Path:
    """Returns the log of the process before."""
    return log.with_suffix(f".former{log.suffix}")


def identity(log: Path) -> str:
    """Returns the id of a log: it stays the same when the log becomes the former one. Empty if there is no log.

    The log of a process that an earlier release has started has none: it is UNKNOWN. The present file of a log is missing for
    a moment when a new one begins.
    """
    with contextlib.suppress(OSError, ValueError):
        descriptor = opened(_mark(log))
        try:
            found = os.pread(descriptor, ID + 1, 0).decode()
        finally:
            os.close(descriptor)
        if len(found) == ID and int(found, 16) >= 0:
            return found
    return UNKNOWN if os.path.lexists(log) else ""


ID = 16
UNKNOWN = "0" * ID


def opened(path: Path) -> int:
    """Returns a descriptor of a regular file, for reading. Raises OSError.

    A sandbox without isolation can put a link, a FIFO or a device in its place.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
    return descriptor


def _mark(log: Path) -> Path:
    return log.with_name(f"{log.name}.id")


def numbered(log: Path, number: int) -> Path:
    """Returns the name of a file of the log that is complete."""
    return log.with_name(f"{log.name}.{number}")


def numbers(log: Path) -> list[int]:
    """Returns the numbers of the files of a log that are complete, in order: one, or two for a moment. The current one has the
    number that follows."""
    suffixes = (one.name.removeprefix(f"{log.name}.") for one in _files(log))
    return sorted(int(one) for one in suffixes if one.isdecimal() and one.isascii())


def _files(log: Path) -> list[Path]:
    """Returns the files of a log."""
    names = os.listdir(log.parent) if log.parent.is_dir() else []  # noqa: PTH208 - names, not paths
    return [log.with_name(one) for one in names if one == log.name or one.startswith(f"{log.name}.")]
