"""Runs programs beside the process of a sandbox: in its namespaces, or beside a process that is not isolated."""

import asyncio
import contextlib
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process, SubprocessStreamProtocol
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from sandbox_server import engines
from sandbox_server.engines.local import enter as script
from sandbox_server.engines.local import entered, launch, processes

_AHEAD = 256 * 1024
"""Bytes of output that are read before somebody asks for them, or twice as many."""
_ENTER = (sys.executable, "-I", "-S", str(Path(script.__file__)))


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


@contextlib.asynccontextmanager
async def enter(process: processes.Process, incarnation: str, program: Sequence[str]) -> AsyncIterator[Stream]:
    """Runs a program beside `process` until the context ends. Raises `engines.Unreachable`."""
    if not process.alive or process.incarnation != incarnation:
        raise engines.Unreachable("the process of the sandbox has ended")
    try:
        words, env, folder = _started(process, program)
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            lambda: SubprocessStreamProtocol(_AHEAD, loop),
            *words,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=env,
            cwd=folder,
            start_new_session=True,
        )
    except OSError as error:
        raise engines.Unreachable(f"the sandbox cannot be entered: {error.strerror or error}") from error
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
        # Kills only this process. Inside bubblewrap the kernel then ends the program.
        transport.close()
        await child.wait()


def _started(process: processes.Process, program: Sequence[str]) -> tuple[Sequence[str], dict[bytes, bytes], str]:
    """Returns the words, the environment and the directory of the process to start here. Raises OSError.

    A process that is not certain to be plain is taken to be isolated: a sandbox must not get a program that is outside.
    """
    place = Path(f"/proc/{process.pid}")
    if not launch.is_plain((place / "cmdline").read_bytes().decode(errors="replace").split("\0")):
        inner = process.inner
        if inner == 0:
            raise ProcessLookupError("nothing runs inside bubblewrap")
        return (*_ENTER, str(inner), launch.HOME, *program), {}, "/"
    pairs = (pair.partition(b"=") for pair in (place / "environ").read_bytes().split(b"\0") if pair)
    env = {name: value for name, _, value in pairs}
    process.access.mkdir(mode=0o700, parents=True, exist_ok=True)
    env[entered.VARIABLE.encode()] = str(process.access).encode()
    return program, env, env[b"HOME"].decode(errors="surrogateescape")
