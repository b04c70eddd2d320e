"""The bounded log of what a sandbox prints.

The process of a sandbox prints into a pipe, and a pump copies the pipe to the log. The pump is a process in a session of
its own: it outlives the service, as the sandbox does, and ends when nothing can print into the pipe any more. It is a
shell with `dd`, which starts in 2 ms; a Python interpreter takes 35 ms and nine times the memory.
"""

import contextlib
import os
from pathlib import Path

from sandbox_server.engines.local import launch

WORDS_MOST = 4096
"""Bytes at the end of the log that go into the status of a failed process, as many as the kubelet takes."""

_BLOCK = 4096
_BLOCKS = 2048
MOST = _BLOCK * _BLOCKS
"""Bytes of a log. Then it is renamed to end in `.1`, and a new one begins. `dd` counts reads, and a read of a small write
counts as a block, so that a log of small writes is renamed earlier."""

# If the log cannot be written, for example on a full disk, the output is dropped: a sandbox must not wait for its log.
# `dd` prints how many blocks it read, as `12+3 records in`. Fewer than were asked for mean that the input has ended.
_PUMP = f"""
umask 077
while said=$(dd bs={_BLOCK} count={_BLOCKS} of="$0" 2>&1) || said=$(dd bs={_BLOCK} count={_BLOCKS} of=/dev/null 2>&1)
do
    said=${{said%%" records in"*}}
    said=${{said##*"
"}}
    [ $((${{said%+*}} + ${{said#*+}})) -eq {_BLOCKS} ] || exit 0
    mv -f "$0" "$0.1"
done
"""


def pump(log: Path, printed: int) -> int:
    """Starts a pump from the pipe `printed` to a new log and returns its pid.

    Raises OSError if the log cannot be created or the pump cannot be started.
    """
    # Created here and not by the pump, whose errors nobody sees.
    os.close(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    _former(log).unlink(missing_ok=True)
    nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        return launch.spawn(["/bin/sh", "-c", _PUMP, str(log)], env, (printed, 0), (nothing, 1), (nothing, 2))
    finally:
        os.close(nothing)


def last(log: Path) -> str:
    """Returns the end of the output, if need be with the end of the former log. Empty if there is no log."""
    words = b""
    for path in (log, _former(log)):
        left = WORDS_MOST - len(words)
        with contextlib.suppress(OSError), path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - left))
            words = file.read(left) + words
    return words.decode(errors="replace")


def _former(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")
