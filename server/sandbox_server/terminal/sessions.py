"""A session is one browser at one terminal, over a WebSocket. The terminal is an exec, which outlives the session.

The browser sends
- first a text, `{"rows": 24, "cols": 80, "offset": 0}`: its size, and how many bytes of the output it has shown;
- what was typed, as binary messages;
- `{"rows": …, "cols": …}` for another size, and `{"close": true}` to end the shell.

The service sends
- `{"accepted": 0}`: how many bytes of input the shell has got since its start, first of all, and again after each part: what
  was sent beyond that is sent again after a cut;
- output, as binary messages, and `{"gap": 10}` for bytes of it that are no longer kept;
- `{"again": "…"}` now and then: the ticket that leads back after a cut;
- at last `{"ended": "…"}`, with words for who sits in front of it. A session that ends without was cut.
"""

import asyncio
import contextlib
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from sandbox_server.access.execs import Execs, Place
from sandbox_server.access.following import Part
from sandbox_server.access.holds import Holds
from sandbox_server.access.sandboxes import Sandboxes
from sandbox_server.access.slots import Slots
from sandbox_server.access.streams import Gap, Happening, Input, Streams
from sandbox_server.domain import errors
from sandbox_server.domain.execs import Channel, End, Exec, ExitReason, Start, Terminal
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key
from sandbox_server.terminal.tickets import Refused, Ticket, Tickets

SHELL = ("/bin/sh", "-c", "command -v bash >/dev/null && exec bash || exec sh")
SIZE_MOST = 1000
"""Rows and columns."""
MESSAGE_MOST = 64 * 1024
"""Bytes of a message from a browser."""
OF_SANDBOX = 16
OF_TENANT = 200
"""Terminals that are open at one replica."""
_TYPED_MOST = 16
"""Messages of a browser that wait for the shell to read. Then the browser waits."""

_ENDS = {
    ExitReason.SANDBOX_STOPPED: "the sandbox was stopped",
    ExitReason.POD_REPLACED: "the process of the sandbox was replaced, as by an update: open another terminal",
    ExitReason.NODE_LOST: "the node of the sandbox was lost",
    ExitReason.OUT_OF_MEMORY: "the sandbox had used more memory than it has: open another terminal",
    ExitReason.TIMEOUT: "the longest time of a terminal is over: open another one",
}


class Sessions:
    """Begins and serves sessions."""

    def __init__(
        self, found: Sandboxes, execs: Execs, streams: Streams, holds: Holds, tickets: Tickets, pace: Pace
    ) -> None:
        self._sandboxes = found
        self._execs = execs
        self._streams = streams
        self._holds = holds
        self._tickets = tickets
        self._pace = pace
        self.address = ""
        """Where browsers reach the page, without a slash at its end; empty while it is served nowhere."""
        self._slots = Slots("terminals", OF_SANDBOX, OF_TENANT)
        self._leaving = set[asyncio.Task[None]]()

    def url(self, key: Key) -> str:
        """Returns the page of a sandbox; empty if the page is served nowhere."""
        return f"{self.address}/terminals/{key.namespace}/{key.id}" if self.address else ""

    async def ticket(self, principal: Principal, key: Key) -> tuple[str, float]:
        """Returns a ticket for a new terminal, and until when it holds, in seconds since 1970.

        Raises `errors.NotFound`, `errors.FailedPrecondition` and `errors.Unavailable`.
        """
        if not self.address:
            raise errors.FailedPrecondition(
                "TERMINAL_NOT_SERVED", "the service was started without access-listen: use StartExec with `tty`"
            )
        incarnation = await self._sandboxes.incarnation(await self._sandboxes.running(principal, key))
        place = Place(principal, key, f"terminal-{secrets.token_hex(8)}", incarnation)
        ticket = Ticket(place, True, time.time() + self._pace.ticket_for)
        return self._tickets.seal(ticket), ticket.expires_at

    async def serve(self, sealed: str, socket: web.WebSocketResponse) -> None:
        """Serves a browser until it leaves or the terminal ends. Closes the WebSocket."""
        try:
            words = await self._serve(self._tickets.opened(sealed, time.time()), socket)
        except Refused as refused:
            words = str(refused)
        except (errors.Unavailable, ConnectionError, TimeoutError):
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER)
            return
        except errors.ServiceError as error:
            words = str(error)
        with contextlib.suppress(ConnectionError):
            await socket.send_json({"ended": words})
            await socket.close()

    async def _serve(self, ticket: Ticket, socket: web.WebSocketResponse) -> str:
        """Returns why the terminal has ended, or that it was left."""
        place = ticket.place
        async with asyncio.timeout(self._pace.access_within):
            message = await socket.receive()
        hello = _message(message.data if message.type is WSMsgType.TEXT else "")
        size, offset = _size(hello), _offset(hello)
        with self._slots.taken(await self._sandboxes.running(place.principal, place.key)):
            if ticket.first:
                await self._start(place, size)
            found = await self._execs.get(place)
            if found.end is not None:
                return _words(found.end)
            holder = secrets.token_hex(8)
            await self._holds.take(place, holder)
            if not ticket.first:
                await self._execs.resize(place, size)
            end = await self._attached(place, found, offset, holder, socket)
        return "the terminal was closed" if end is None else _words(end)

    async def _start(self, place: Place, size: Terminal) -> None:
        """Starts the shell. Raises `Refused` if it was started before."""
        asked = Start(SHELL, terminal=size, timeout_seconds=self._pace.terminal_most)
        # Another payload each time: an exec that is there already was started with this ticket before.
        payload = uuid.uuid4().hex
        new = Place(place.principal, place.key, place.exec_id, "")
        try:
            await self._execs.start(new, None, payload, place.incarnation, asked)
        except errors.Invalid:
            raise Refused("this ticket was used before: ask for another one") from None

    async def _attached(
        self, place: Place, found: Exec, offset: int, holder: str, socket: web.WebSocketResponse
    ) -> End | None:
        """Connects browser and shell. Returns the end of the shell, None if the browser left."""
        typed = asyncio.Queue[bytes](_TYPED_MOST)
        ends: list[End] = []

        async def show(one: Happening) -> None:
            match one:
                case Part():
                    await socket.send_bytes(one.data)
                case Gap():
                    await socket.send_json({"gap": one.length})
                case End():
                    ends.append(one)

        async def parts() -> AsyncIterator[Input]:
            accepted = found.accepted
            while True:
                data = await typed.get()
                yield Input(accepted, data, eof=False)
                accepted += len(data)
                await socket.send_json({"accepted": accepted})

        async def type_() -> None:
            # A shell that reads no more has ended, or is about to.
            with contextlib.suppress(errors.FailedPrecondition):
                await self._streams.write(place, parts())
            await asyncio.Future()

        async def renew() -> None:
            held = self._pace.terminal_held
            while True:
                again = Ticket(place, False, time.time() + held * 4 / 3)
                await socket.send_json({"again": self._tickets.seal(again)})
                await asyncio.sleep(held / 3)

        await socket.send_json({"accepted": found.accepted})
        offsets = {Channel.STDOUT: offset, Channel.STDERR: 0}
        reading = asyncio.create_task(self._read(place, socket, typed))
        works: tuple[Coroutine[Any, Any, object], ...] = (self._streams.attach(place, offsets, show), type_(), renew())
        tasks = {reading, *map(asyncio.create_task, works)}
        closed = False
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            closed = reading.done() and reading.result()
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if not ends:
                self._leave(place, holder, 0.0 if closed else self._pace.terminal_held)
        return ends[0] if ends else None

    async def _read(self, place: Place, socket: web.WebSocketResponse, typed: "asyncio.Queue[bytes]") -> bool:
        """Takes what the browser sends until it leaves. Returns whether it closed the terminal."""
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                await typed.put(message.data)
            elif message.type is WSMsgType.TEXT:
                said = _message(message.data)
                if said.get("close") is True:
                    return True
                await self._execs.resize(place, _size(said))
        return False

    def _leave(self, place: Place, holder: str, seconds: float) -> None:
        """Ends the shell after so many seconds, unless a browser has come back to it, at whichever replica."""

        async def end() -> None:
            await asyncio.sleep(seconds)
            with contextlib.suppress(errors.ServiceError):
                if await self._holds.has(place, holder):
                    await self._execs.signal(place, "HUP")

        task = asyncio.create_task(end())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """Leaves shells that no browser has come back to, until their longest time is over."""
        for task in tuple(self._leaving):
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)


def _words(end: End) -> str:
    if end.reason in (ExitReason.EXIT, ExitReason.SIGNAL):
        return f"the shell has ended with exit code {end.code}"
    return _ENDS[end.reason]


def _message(text: str) -> dict[str, Any]:
    """Returns the fields of a message. Raises `Refused`."""
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise Refused("the page sent what is no message")
    return said


def _number(said: dict[str, Any], name: str, least: int, most: int) -> int:
    value = said.get(name)
    if type(value) is not int or not least <= value <= most:
        raise Refused(f"the page sent a message with a bad {name}")
    return value


def _size(said: dict[str, Any]) -> Terminal:
    return Terminal(_number(said, "rows", 1, SIZE_MOST), _number(said, "cols", 1, SIZE_MOST))


def _offset(said: dict[str, Any]) -> int:
    return _number(said, "offset", 0, 10**15 - 1)
