"""Programs that were entered into a sandbox without isolation, found by a variable of their environment.

They are in sessions of their own, and nothing else ends them when the sandbox ends. Inside bubblewrap the kernel does.
"""

import contextlib
import os
import signal
from pathlib import Path

VARIABLE = "SANDBOX_ACCESS"
_ROUNDS = 10
"""How often to look again, since a process may fork while others are killed."""


def kill(access: Path) -> None:
    """Sends SIGKILL to every process that has `access` as `VARIABLE`."""
    for _ in range(_ROUNDS):
        found = _marked(access)
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _marked(access: Path) -> list[int]:
    mark = f"{VARIABLE}={access}".encode()
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - names, not paths
        if name.isdecimal():
            # A process that has ended, or of another user. The environment of a zombie is empty.
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.append(int(name))
    return found
