"""The terminal of a person as that of a command in a sandbox."""

import contextlib
import os
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator

from sandbox_client import errors
from sandbox_client.running import Exec

_LEAVE = b"~."
"""Leaves the command, at the beginning of a line."""


def size() -> tuple[int, int] | None:
    """Returns the rows and columns of the terminal; None unless the standard input and output are one."""
    if not (os.isatty(0) and sys.stdout.isatty()):
        return None
    found = os.get_terminal_size(0)
    return (found.lines or 24, found.columns or 80)


@contextlib.contextmanager
def raw(command: Exec) -> Iterator[None]:
    """Passes every key on until the context ends, and each new size of the terminal."""
    before = termios.tcgetattr(0)
    resized = signal.signal(signal.SIGWINCH, lambda _number, _frame: _in_thread(command))
    # What was typed before is not thrown away.
    tty.setraw(0, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, resized)


def _in_thread(command: Exec) -> None:
    # gRPC is at work in the thread in which a signal is handled.
    threading.Thread(target=_resize, args=(command,), daemon=True).start()


def _resize(command: Exec) -> None:
    found = size()
    if found is not None:
        with contextlib.suppress(errors.ServiceError):
            command.resize(*found)


def keys(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yields what is typed. Enter, `~` and `.` end it, and this process as Ctrl-C would elsewhere."""
    line_begins = True
    held = b""
    for chunk in chunks:
        typed = b""
        for one in (chunk[number : number + 1] for number in range(len(chunk))):
            held += one
            if line_begins and held == _LEAVE:
                os.kill(os.getpid(), signal.SIGINT)
                return
            if line_begins and held == _LEAVE[:1]:
                continue
            typed += held
            line_begins = held.endswith((b"\r", b"\n"))
            held = b""
        if typed:
            yield typed
