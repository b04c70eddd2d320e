"""The two pipes of a program that was entered. They are read and written directly: a stream of asyncio would copy each byte
twice, and end only when everything that has inherited the output has ended."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from io import FileIO
from typing import Any

from sandbox_server import engines

_SIZE = 1 << 20
"""Bytes that a pipe holds, if the kernel allows the user as many. Each time that it is full or empty, a process waits."""


class Stream:
    """See `engines.Entered`. One task reads at a time, and one writes."""

    def __init__(self, taken: int, printed: int, answered: Callable[[], None]) -> None:
        self._taken = taken
        self._printed = printed
        self._answered = answered

    async def write(self, data: engines.Buffer) -> None:
        """Writes, and waits while the pipe is full. Raises `engines.Unreachable` if the program has ended."""
        loop = asyncio.get_running_loop()
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._taken, rest) :]
            except BlockingIOError:
                await _ready(self._taken, loop.add_writer, loop.remove_writer)
            except OSError as error:
                raise engines.Unreachable("the program in the sandbox has ended") from error

    async def read(self, most: int) -> bytes:
        """Returns what is in the pipe, and waits while it is empty."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                read = os.read(self._printed, most)
            except BlockingIOError:
                await _ready(self._printed, loop.add_reader, loop.remove_reader)
            else:
                self._answered()
                return read


async def _ready(descriptor: int, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
    """Returns when something can be read from a descriptor or written to it."""
    ready = asyncio.Event()
    add(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        remove(descriptor)


@contextlib.contextmanager
def opened(answered: Callable[[], None]) -> Iterator[tuple[FileIO, FileIO, Stream]]:
    """Yields the input and the output for a program, to be closed once it has been started, and the stream to it.

    Whenever something was read, or the end, `answered` is called.
    At the end of the context the input of the program has ended, and nobody reads its output any more.
    """
    with contextlib.ExitStack() as stack:
        taken, written = _pair(stack)
        read, printed = _pair(stack)
        for one in (written, read):
            os.set_blocking(one.fileno(), False)
            with contextlib.suppress(OSError):
                fcntl.fcntl(one, fcntl.F_SETPIPE_SZ, _SIZE)
        yield taken, printed, Stream(written.fileno(), read.fileno(), answered)


def _pair(stack: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    reading, writing = os.pipe()
    return stack.enter_context(FileIO(reading, "rb")), stack.enter_context(FileIO(writing, "wb"))
