"""A command in a sandbox on the standard streams of this one: its output, its input, Ctrl-C and its exit code."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from sandbox_client import errors
from sandbox_client.output import Channel, Ended, Gap, Output
from sandbox_client.running import Exec

from sandboxctl import show, terminal

_CHUNK = 64 * 1024
_BROKEN_PIPE = 128 + signal.SIGPIPE
"""The exit code of a program that SIGPIPE ends."""


def follow(command: Exec, name: str, stdin: bool, on_terminal: bool = False) -> int:
    """Passes everything on until the command has ended. Returns the exit code for this process: that of the command, or 1 if
    it is 0 and output is missing that a program would read.

    `name` is the sandbox for messages. The first Ctrl-C is for the command, the second raises KeyboardInterrupt; on a
    terminal of its own all keys are for the command.
    """
    chunks = terminal.keys(_input()) if on_terminal else _input()
    if stdin:
        threading.Thread(target=_pass_input, args=(command, chunks), daemon=True).start()
    whole = True
    try:
        with terminal.raw(command) if on_terminal else _ctrl_c(command):
            for part in command.read(lost=show.lost, back=show.back):
                whole = _pass_output(part) and whole
    except KeyboardInterrupt:
        show.err.print(f"the command goes on: `sandboxctl attach {name} {command.id}` shows it again")
        raise
    except BrokenPipeError:
        return _left(command)
    return _code(command.ended) or int(not whole)


def _pass_output(part: Output | Gap) -> bool:
    """Writes a part. Returns False where a program that reads the output would not notice that a part is missing."""
    if isinstance(part, Gap):
        show.err.print(f"{part.length} bytes of {part.channel} are missing here: the sandbox no longer has them")
        return part.channel is Channel.STDERR or sys.stdout.isatty()
    stream = sys.stdout if part.channel is Channel.STDOUT else sys.stderr
    stream.buffer.write(part.data)
    stream.buffer.flush()
    return True


def _left(command: Exec) -> int:
    """Ends a command whose output nobody reads any more, as SIGPIPE would here."""
    with contextlib.suppress(errors.ServiceError):
        command.signal("TERM")
    # Python would fail at its end to write what is left in its buffer.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _BROKEN_PIPE


def _code(ended: Ended | None) -> int:
    if ended is None or ended.code is None:
        reason = "" if ended is None else f": {ended.reason}"
        show.failure("failed", f"the command has ended with the process of its sandbox{reason}")
        return 1
    if ended.reason not in ("EXIT", "SIGNAL"):
        show.failure("failed", f"the command was ended: {ended.reason}")
    return ended.code


def _pass_input(command: Exec, chunks: Iterator[bytes]) -> None:
    """Writes the standard input to the command. That it has ended, or why it cannot be reached, reading its output shows.

    The client may be closed when the command has ended: gRPC then raises ValueError.
    """
    with contextlib.suppress(errors.ServiceError, ValueError):
        command.write(chunks, eof=True)


def _input() -> Iterator[bytes]:
    # Not by sys.stdin: at the end of this process a thread that reads from it would hold its lock.
    with contextlib.suppress(OSError):
        while chunk := os.read(0, _CHUNK):
            yield chunk


@contextlib.contextmanager
def _ctrl_c(command: Exec) -> Iterator[None]:
    """Sends the first SIGINT of this process to the command, and lets the next one end this process."""
    before = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        with contextlib.suppress(errors.ServiceError):
            command.signal("INT")

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # In a thread: gRPC is at work in this one.
        threading.Thread(target=interrupt, daemon=True).start()

    if before is signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
