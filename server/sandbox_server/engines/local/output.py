"""What a process of a sandbox prints: its log, which is bounded, and the end of it.

A process prints into a pipe, and a pump writes what comes out of it to the log. The pump is a process in a session of its own:
it outlives the service as the sandbox does, and ends when nobody can print any more. It is a shell with `dd`, which writes
each block as it comes and starts in 2 ms; an interpreter takes 35 ms and nine times the memory.
"""

import contextlib
import os
from pathlib import Path

from sandbox_server.engines.local import launch

WORDS_MOST = 4096
"""Bytes of a log that are kept of a process that failed, as many as a kubelet keeps."""

_BLOCK, _BLOCKS = 4096, 2048
MOST = _BLOCK * _BLOCKS
"""Bytes of a log, after which it is renamed to end in `.1` and a new one begins. A block is what is read at once: a log of
many small writes is renamed earlier, after as many of them as it has blocks."""

# What cannot be written, to a disk that is full for example, is left out: no sandbox waits for its log. That fewer blocks
# than were asked for were read (`12+3 records in`, after warnings on lines of their own) says that the input has ended.
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
    """Starts what writes everything that comes out of `printed` to a new log; returns its pid. Raises OSError."""
    # Made here, so that whoever starts the process hears why it cannot be.
    os.close(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    _former(log).unlink(missing_ok=True)
    nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        return launch.spawn(["/bin/sh", "-c", _PUMP, str(log)], env, (printed, 0), (nothing, 1), (nothing, 2))
    finally:
        os.close(nothing)


def last(log: Path) -> str:
    """The end of the output. The log may just have been begun anew, so that the one before it counts too."""
    words = b""
    for one in (log, _former(log)):
        left = WORDS_MOST - len(words)
        with contextlib.suppress(OSError), one.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - left))
            words = file.read(left) + words
    return words.decode(errors="replace")


def _former(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")
