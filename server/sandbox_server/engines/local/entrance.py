"""Runs programs beside the process of a sandbox: in its namespaces, or beside a process that is not isolated."""

import asyncio
import contextlib
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from sandbox_server import engines
from sandbox_server.engines.local import entered, forks, launch, pipes, processes
from sandbox_server.engines.local.forks import Forks
from sandbox_server.engines.local.turns import Turns


class Entrance:
    """Enters sandboxes."""

    def __init__(self, longest_turn: float) -> None:
        """`longest_turn`: seconds for which a program that does not answer keeps others from being run."""
        self._forks = Forks()
        self._turns = Turns(longest_turn)

    async def close(self) -> None:
        """Leaves those programs alone that still run."""
        await self._forks.close()

    @contextlib.asynccontextmanager
    async def enter(
        self, process: processes.Process, incarnation: str, program: Sequence[str]
    ) -> AsyncIterator[pipes.Stream]:
        """Runs a program beside `process` until the context ends. Raises `engines.Unreachable`.

        Waits for a turn, which lasts until the program answers.
        """
        async with self._turns.taken() as answered, contextlib.AsyncExitStack() as opened:
            if not process.alive or process.incarnation != incarnation:
                raise engines.Unreachable("the process of the sandbox has ended")
            try:
                # A process that is not certain to be plain is taken to be isolated: a sandbox must not get a program that
                # is outside.
                plain = launch.is_plain(_read(process.pid, "cmdline").decode(errors="replace").split("\0"))
                enter = _plain if plain else self._isolated
                stream = await opened.enter_async_context(enter(process, program, answered))
            except OSError as error:
                raise engines.Unreachable(f"the sandbox cannot be entered: {error.strerror or error}") from error
            yield stream

    @contextlib.asynccontextmanager
    async def _isolated(
        self, process: processes.Process, program: Sequence[str], answered: Callable[[], None]
    ) -> AsyncIterator[pipes.Stream]:
        inner = process.inner
        if inner == 0:
            raise ProcessLookupError("nothing runs inside bubblewrap")
        with pipes.opened(answered) as (taken, printed, stream):
            entered = await self._forks.start(inner, launch.HOME, program, taken.fileno(), printed.fileno())
            taken.close()
            printed.close()
            try:
                yield stream
            finally:
                # As in `_plain`. The kernel then ends the program.
                forks.end(entered)


@contextlib.asynccontextmanager
async def _plain(
    process: processes.Process, program: Sequence[str], answered: Callable[[], None]
) -> AsyncIterator[pipes.Stream]:
    pairs = (pair.partition(b"=") for pair in _read(process.pid, "environ").split(b"\0") if pair)
    env = {name: value for name, _, value in pairs}
    process.access.mkdir(mode=0o700, parents=True, exist_ok=True)
    env[entered.VARIABLE.encode()] = str(process.access).encode()
    with pipes.opened(answered) as (taken, printed, stream):
        child = await asyncio.create_subprocess_exec(
            *program,
            stdin=taken,
            stdout=printed,
            stderr=DEVNULL,
            env=env,
            cwd=env[b"HOME"].decode(errors="surrogateescape"),
            start_new_session=True,
        )
        taken.close()
        printed.close()
        try:
            yield stream
        finally:
            # Only this process: what it has started goes on, and finds the end of its input.
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()


def _read(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()
