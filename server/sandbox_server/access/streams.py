"""The streams of an exec: its output and its input, by offsets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from sandbox_server.access import conversation
from sandbox_server.access.conversation import CHUNK, Conversation
from sandbox_server.access.execs import Execs, Place
from sandbox_server.access.following import Following, Over, Part
from sandbox_server.domain import errors
from sandbox_server.domain.execs import Channel, End, Exec
from sandbox_server.domain.pace import Pace


@dataclass(frozen=True, slots=True)
class Started:
    """The exec exists."""

    incarnation: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Output that is no longer kept."""

    channel: Channel
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Beat:
    """Nothing was printed for a while."""


Happening = Started | Part | Gap | Beat | End
Send = Callable[[Happening], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Input:
    """A part of the input, from `offset` on; the last one if `eof`."""

    offset: int
    data: bytes
    eof: bool


class Awaited:
    """The parts of an input. A wait for the next one can be left, and gone on with later."""

    def __init__(self, parts: AsyncIterator[Input]) -> None:
        self._parts = parts
        self._next: asyncio.Task[Input | None] | None = None

    async def within(self, seconds: float) -> Input | None:
        """Returns the next part, None if it does not come within so many seconds or there is none."""
        await asyncio.wait((self._coming(),), timeout=seconds)
        if not self._coming().done() or self._coming().result() is None:
            return None
        part, self._next = self._coming().result(), None
        return part

    async def ended(self) -> bool:
        """Waits until there is another part, and returns whether there is none."""
        await asyncio.wait((self._coming(),))
        return self._coming().result() is None

    def _coming(self) -> "asyncio.Task[Input | None]":
        if self._next is None:
            self._next = asyncio.create_task(self._read())
        return self._next

    async def _read(self) -> Input | None:
        return await anext(self._parts, None)

    async def close(self) -> None:
        """Waits for nothing any more."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)


class Streams:
    """Attaches to execs and writes to them. Raises as `Execs`, and `errors.OutOfRange`."""

    def __init__(self, execs: Execs, pace: Pace) -> None:
        self._execs = execs
        self._pace = pace

    async def attach(self, place: Place, offsets: dict[Channel, int], send: Send) -> None:
        """Sends the output of an exec from `offsets` on, and at last its end."""
        at = dict(offsets)
        match await self._execs.follow(place, at, lambda one: self._copy(one, at, send)):
            case End() as end:
                await send(end)
            case Exec(end=End() as end):
                await send(end)

    async def _copy(self, following: Following, at: dict[Channel, int], send: Send) -> End:
        """Sends output until the exec has ended and everything was sent. Returns the end."""
        last: Exec | None = None
        while True:
            came = await following.next()
            match came:
                case None if self._execs.closed:
                    raise errors.Unavailable("SHUTTING_DOWN", "the service is stopping: attach again with the offsets")
                case Exec() if last is None:
                    _check(came, at)
                    await send(Started(came.incarnation))
                    last = came
                case Exec():
                    last = came
                    if came.end is None:
                        await send(Beat())
                case Part(channel, offset, data) if offset >= at[channel]:
                    if offset > at[channel]:
                        await send(Gap(channel, at[channel], offset - at[channel]))
                    await send(came)
                    at[channel] = offset + len(data)
                case Over() if last is not None and last.end is not None:
                    return last.end
                case Part() | Over():
                    raise conversation.nonsense()

    async def write(self, place: Place, parts: AsyncIterator[Input]) -> int:
        """Writes the input of an exec, and returns how many bytes were accepted since its start."""

        awaited = Awaited(parts)

        async def write(talk: Conversation) -> int:
            accepted = (await talk.state()).accepted
            while (part := await awaited.within(self._pace.access_idle)) is not None:
                accepted = await self._accept(talk, part, accepted)
            return accepted

        try:
            while True:
                written = await self._execs.about(place, write)
                if isinstance(written, Exec):
                    raise _closed(written.accepted)
                if await awaited.ended():
                    return written
        finally:
            await awaited.close()

    async def _accept(self, talk: Conversation, part: Input, accepted: int) -> int:
        """Writes what was not accepted before, and waits while the command does not read."""
        end = part.offset + len(part.data)
        while True:
            if part.offset > accepted:
                raise errors.OutOfRange(
                    "OFFSET_NOT_REACHED",
                    f"{accepted} bytes of the input were accepted: write from there",
                    accepted_offset=str(accepted),
                )
            if accepted >= end:
                break
            begin = accepted - part.offset
            outcome, accepted = await talk.write(accepted, part.data[begin : begin + CHUNK])
            if outcome == "ended":
                raise _closed(accepted)
            if outcome == "full":
                await asyncio.sleep(self._pace.access_look_most)
        if part.eof:
            accepted = await talk.end(end)
        return accepted


def _check(last: Exec, offsets: dict[Channel, int]) -> None:
    if any(offsets[one] > last.printed[one] for one in Channel):
        raise errors.OutOfRange(
            "OFFSET_NOT_REACHED",
            "the exec has not printed as much: attach with the offsets of its end",
            stdout_offset=str(last.printed[Channel.STDOUT]),
            stderr_offset=str(last.printed[Channel.STDERR]),
        )


def _closed(accepted: int) -> errors.FailedPrecondition:
    return errors.FailedPrecondition(
        "STDIN_CLOSED",
        "the exec has ended, has no input, or its input has ended: write no more",
        accepted_offset=str(accepted),
    )
