"""Asks a program in a sandbox about a path."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from sandbox_server import engines
from sandbox_server.access import conversation
from sandbox_server.access.file_answers import Answers
from sandbox_server.access.sandboxes import Sandboxes
from sandbox_server.access.slots import Slots
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key, Sandbox

OF_SANDBOX = 32
OF_TENANT = 256
"""Calls about files that are open at one replica: each holds a program in the sandbox, and a part of the content."""


@dataclass(frozen=True, slots=True)
class Where:
    """Which path of which sandbox a call is about. A relative path is relative to the directory of the sandbox."""

    principal: Principal
    key: Key
    path: bytes


class Asking:
    """Runs the programs that work on files."""

    def __init__(self, found: Sandboxes, engine: engines.Access, pace: Pace) -> None:
        self._sandboxes = found
        self._engine = engine
        self.pace = pace
        self._slots = Slots("calls about files", OF_SANDBOX, OF_TENANT)

    @contextlib.asynccontextmanager
    async def about(self, where: Where, script: Callable[[str], bytes]) -> AsyncIterator[Answers]:
        """Runs a script, which may depend on the incarnation, until the context ends.

        Raises `errors.NotFound`, `errors.FailedPrecondition`, `errors.ResourceExhausted` and `errors.Unavailable`.
        """
        sandbox = await self._sandboxes.running(where.principal, where.key)
        with self._slots.taken(sandbox):
            async with self.inside(sandbox, where.path, script) as answers:
                yield answers

    @contextlib.asynccontextmanager
    async def inside(self, sandbox: Sandbox, path: bytes, script: Callable[[str], bytes]) -> AsyncIterator[Answers]:
        """Runs a script as `about` does, in a sandbox that is known, and does not count it.

        Raises `errors.FailedPrecondition` and `errors.Unavailable`.
        """
        incarnation = await self._sandboxes.incarnation(sandbox)
        within = self.pace.access_within
        async with conversation.reached(self._engine, sandbox, incarnation, script(incarnation), within) as lines:
            answers = Answers(lines, path)
            await answers.begin()
            yield answers
