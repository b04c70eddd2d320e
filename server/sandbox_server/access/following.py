"""Follows an exec: what it prints arrives without being asked for, and so does its end."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from sandbox_server import engines
from sandbox_server.access import conversation, follow_script
from sandbox_server.access.conversation import Cut, Lines
from sandbox_server.domain.execs import Channel, Exec
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Sandbox

_CHANNELS = {b"o": Channel.STDOUT, b"e": Channel.STDERR}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of what was printed, from `offset` on."""

    channel: Channel
    offset: int
    data: bytes


class Over:
    """The exec has ended, and all its output was sent."""


class Following:
    """What comes from one exec. Every method raises `Cut`.

    The exec may print nothing for hours. So its state is asked for as a sign of life, and comes in between.
    """

    def __init__(self, lines: Lines, exec_id: str, incarnation: str, pace: Pace) -> None:
        self._lines = lines
        self._exec_id = exec_id
        self._incarnation = incarnation
        self._pace = pace
        # Outlives the call of `next` that began to wait for it.
        self._awaited: asyncio.Task[Exec | Part | Over] | None = None
        self._silent_since = _now()
        # The state comes first without being asked for.
        self._asked = True

    async def state(self) -> Exec:
        """Returns the exec as it now stands. What else comes before is dropped."""
        await self._lines.send(b"ping\n")
        while not isinstance(came := await self.next(), Exec):
            if isinstance(came, Over):
                raise conversation.nonsense()
        return came

    async def next(self, most: float = math.inf) -> Exec | Part | Over | None:
        """Returns what comes next, None if nothing has come for a moment, or for `most` seconds."""
        if self._awaited is None:
            self._awaited = asyncio.create_task(self._next())
        await asyncio.wait((self._awaited,), timeout=min(most, self._pace.access_look_most))
        if self._awaited.done():
            awaited, self._awaited = self._awaited, None
            self._silent_since, self._asked = _now(), False
            return awaited.result()
        silent = _now() - self._silent_since
        if self._asked and silent > self._pace.access_within:
            raise Cut(f"the sandbox does not answer within {self._pace.access_within:g} s")
        if not self._asked and silent > self._pace.heartbeat:
            await self._lines.send(b"ping\n")
            self._silent_since, self._asked = _now(), True
        return None

    async def _next(self) -> Exec | Part | Over:
        words = await self._lines.line(math.inf)
        match words:
            case []:
                raise Cut("the program in the sandbox has ended")
            case [b"over"]:
                return Over()
            case [b"state", *_]:
                return conversation.stands(self._exec_id, self._incarnation, words)
            case [(b"o" | b"e") as letter, offset, size] if conversation.number(size) <= follow_script.CHUNK:
                data = await self._lines.exactly(conversation.number(size))
                return Part(_CHANNELS[letter], conversation.number(offset), data)
        raise conversation.nonsense()

    async def close(self) -> None:
        """Waits for nothing any more."""
        if self._awaited is not None:
            self._awaited.cancel()
            await asyncio.wait((self._awaited,))


def _now() -> float:
    return asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def begin(
    engine: engines.Access, sandbox: Sandbox, incarnation: str, exec_id: str, offsets: Mapping[Channel, int], pace: Pace
) -> AsyncIterator[Following]:
    """Follows the channels of an exec from offsets on. First comes its state. Raises `conversation.Unknown` and `Cut`."""
    script = follow_script.follow(exec_id, offsets.get(Channel.STDOUT), offsets.get(Channel.STDERR))
    async with conversation.opened(engine, sandbox, incarnation, script, pace.access_within) as lines:
        following = Following(lines, exec_id, incarnation, pace)
        try:
            yield following
        finally:
            await following.close()
