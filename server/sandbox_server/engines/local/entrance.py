"""Runs programs beside the process of a sandbox: in its namespaces, or beside a process that is not isolated."""

import asyncio
import contextlib
import os
from asyncio.subprocess import DEVNULL, PIPE, Process, SubprocessStreamProtocol
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from sandbox_server import engines
from sandbox_server.engines.local import entered, forks, launch, processes
from sandbox_server.engines.local.forks import Forks

_AHEAD = 256 * 1024
"""Bytes of output that are read before somebody asks for them, or twice as many."""


class Stream:
    """See `engines.Entered`."""

    def __init__(self, taken: asyncio.StreamWriter, printed: asyncio.StreamReader) -> None:
        self._taken = taken
        self._printed = printed

    async def write(self, data: bytes) -> None:
        """Writes, and waits while the pipe is full. Raises `engines.Unreachable` if the program has ended."""
        try:
            # uvloop raises no OSError for a write to a pipe that it has closed.
            if self._taken.is_closing():
                raise BrokenPipeError
            self._taken.write(data)
            await self._taken.drain()
        except OSError as error:
            raise engines.Unreachable("the program in the sandbox has ended") from error

    async def read(self, most: int) -> bytes:
        """Returns what is in the pipe, and waits while it is empty."""
        return await self._printed.read(most)


class Entrance:
    """Enters sandboxes."""

    def __init__(self) -> None:
        self._forks = Forks()

    async def close(self) -> None:
        """Leaves those programs alone that still run."""
        await self._forks.close()

    @contextlib.asynccontextmanager
    async def enter(
        self, process: processes.Process, incarnation: str, program: Sequence[str]
    ) -> AsyncIterator[Stream]:
        """Runs a program beside `process` until the context ends. Raises `engines.Unreachable`."""
        if not process.alive or process.incarnation != incarnation:
            raise engines.Unreachable("the process of the sandbox has ended")
        async with contextlib.AsyncExitStack() as opened:
            try:
                # A process that is not certain to be plain is taken to be isolated: a sandbox must not get a program that
                # is outside.
                plain = launch.is_plain(_read(process.pid, "cmdline").decode(errors="replace").split("\0"))
                started = _plain(process, program) if plain else self._isolated(process, program)
                stream = await opened.enter_async_context(started)
            except OSError as error:
                raise engines.Unreachable(f"the sandbox cannot be entered: {error.strerror or error}") from error
            yield stream

    @contextlib.asynccontextmanager
    async def _isolated(self, process: processes.Process, program: Sequence[str]) -> AsyncIterator[Stream]:
        inner = process.inner
        if inner == 0:
            raise ProcessLookupError("nothing runs inside bubblewrap")
        loop = asyncio.get_running_loop()
        taken, given = os.pipe()
        printing, printed = os.pipe()
        reader = asyncio.StreamReader(_AHEAD, loop)
        flow: Any
        try:
            output, _ = await loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader, loop=loop), os.fdopen(printing, "rb", 0)
            )
            into, flow = await loop.connect_write_pipe(
                lambda: asyncio.streams.FlowControlMixin(loop), os.fdopen(given, "wb", 0)
            )
            try:
                entered = await self._forks.start(inner, launch.HOME, program, taken, printed)
            except BaseException:
                output.close()
                into.abort()
                raise
        finally:
            os.close(taken)
            os.close(printed)
        try:
            yield Stream(asyncio.StreamWriter(into, flow, None, loop), reader)
        finally:
            # As in `_plain`. The kernel then ends the program.
            if not into.is_closing():
                into.abort()
            output.close()
            forks.end(entered)


@contextlib.asynccontextmanager
async def _plain(process: processes.Process, program: Sequence[str]) -> AsyncIterator[Stream]:
    pairs = (pair.partition(b"=") for pair in _read(process.pid, "environ").split(b"\0") if pair)
    env = {name: value for name, _, value in pairs}
    process.access.mkdir(mode=0o700, parents=True, exist_ok=True)
    env[entered.VARIABLE.encode()] = str(process.access).encode()
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_exec(
        lambda: SubprocessStreamProtocol(_AHEAD, loop),
        *program,
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        env=env,
        cwd=env[b"HOME"].decode(errors="surrogateescape"),
        start_new_session=True,
    )
    child = Process(transport, protocol, loop)
    taken: Any = child.stdin
    printed: Any = child.stdout
    try:
        yield Stream(taken, printed)
    finally:
        # What the program has started goes on, and finds the end of its input. It may hold the output, which nobody reads:
        # the pipes are closed here. What was not taken yet is dropped, since nobody may ever take it.
        if not taken.is_closing():
            taken.transport.abort()
        # Kills only this process.
        transport.close()
        await child.wait()


def _read(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()
