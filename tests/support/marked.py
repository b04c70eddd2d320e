"""The programs of sandboxes on the local engine, found by a word that only those of this run of the tests have."""

import contextlib
import os
import signal
import uuid

import psutil

MARK = f"marked-{uuid.uuid4().hex}"
"""The last word of the command of a shell that is to be found, which needs its sandbox's id in the variable ID."""


def programs() -> dict[int, str]:
    """Returns the marked shells that run: their process ids, and the ids of their sandboxes."""
    found = {}
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error, KeyError):
            if one.cmdline()[-1:] == [MARK] and one.name() == "sh" and one.status() != psutil.STATUS_ZOMBIE:
                found[one.pid] = one.environ()["ID"]
    return found


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def end_programs() -> None:
    """Kills every marked shell, those that the service lost included."""
    for pid in programs():
        kill(pid)
