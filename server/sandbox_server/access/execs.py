"""Starts commands in sandboxes that run, and finds them again. Nothing is kept here: an exec lives in its sandbox."""

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeVar

import structlog

from sandbox_server import engines, store
from sandbox_server.access import conversation, following, sandboxes, scripts
from sandbox_server.access.conversation import Conversation
from sandbox_server.access.following import Following
from sandbox_server.access.sandboxes import Sandboxes
from sandbox_server.access.slots import Slots
from sandbox_server.domain import errors
from sandbox_server.domain.execs import Channel, Exec, Start, Terminal
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key, Sandbox

log = structlog.get_logger()
T = TypeVar("T")
Opened = TypeVar("Opened")
OF_SANDBOX = 256
"""Calls about execs of a sandbox that are open at a replica: each holds a program in the sandbox. Some for each exec."""
_ID = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_]{0,62}\Z")


@dataclass(frozen=True, slots=True)
class Place:
    """Which exec a call is about. `incarnation` is empty for the current one."""

    principal: Principal
    key: Key
    exec_id: str
    incarnation: str


class Execs:
    """The execs of all sandboxes, on behalf of principals.

    Every method raises `errors.NotFound`, `errors.FailedPrecondition`, `errors.ResourceExhausted` and `errors.Unavailable`.
    """

    def __init__(
        self, store: store.Store, found: Sandboxes, engine: engines.Access, pace: Pace, per_tenant: int
    ) -> None:
        self._store = store
        self._sandboxes = found
        self._engine = engine
        self._pace = pace
        self._slots = Slots("calls about execs", OF_SANDBOX, per_tenant)

    @property
    def closed(self) -> bool:
        """Whether the service stops."""
        return self._sandboxes.closed

    async def start(
        self, place: Place, request: store.Request | None, payload: str, expected: str, asked: Start
    ) -> Exec:
        """Starts a command, unless it was started before. The id of `place` may be empty if there is a request.

        `payload` is a digest of what is asked for, by which another use of the id is told. Raises `errors.Aborted` for
        another incarnation than the one expected, `errors.Invalid` for an id that was used for something else, and
        `errors.ResourceExhausted`.
        """
        sandbox = await self._sandboxes.running(place.principal, place.key)
        current = incarnation = await self._sandboxes.incarnation(sandbox)
        exec_id = place.exec_id or f"x{uuid.uuid4().hex[:16]}"
        if request is not None:
            # The store remembers the incarnation in which the request took effect: it never does in another one.
            (decided,) = await self._store.decided(request, place.key.namespace, (f"{exec_id}@{current}",))
            exec_id, _, incarnation = decided.partition("@")
        if expected not in ("", incarnation):
            raise errors.Aborted(
                "INCARNATION_CHANGED",
                f"the sandbox is in incarnation {current!r}: decide again whether to run the command",
                incarnation=current,
            )
        if incarnation != current:
            return await self._lost(sandbox, exec_id, incarnation)
        script = scripts.start(exec_id, payload, asked)
        within = self._pace.access_within
        async with conversation.reached(self._engine, sandbox, incarnation, script, within) as lines:
            answer = await lines.line()
        match answer:
            case [b"started"]:
                log.info(
                    "exec_started",
                    namespace=place.key.namespace,
                    sandbox=place.key.id,
                    tenant=place.principal.name,
                    exec_id=exec_id,
                    program=asked.command[0],
                )
                return Exec(exec_id, incarnation, terminal=asked.terminal)
            case [b"unsupported"]:
                raise errors.FailedPrecondition(
                    "EXEC_UNSUPPORTED",
                    "nothing in the sandbox can make a terminal: install util-linux (bsdutils on Debian), or python3 and stty",
                )
            case [b"known", found] if found == payload.encode():
                return await self.get(Place(place.principal, place.key, exec_id, incarnation))
            case [b"known", _]:
                violation = errors.Violation("exec_id", "was used with another payload: choose another")
                raise errors.Invalid((violation,), "REQUEST_ID_REUSED")
            case [b"full"]:
                raise errors.ResourceExhausted(
                    "TOO_MANY_EXECS",
                    f"{scripts.EXECS_MOST} execs of the sandbox run: wait for one, or end one",
                    execs=str(scripts.EXECS_MOST),
                )
        raise sandboxes.not_reached(conversation.Cut("the program in the sandbox has ended"))

    async def get(self, place: Place) -> Exec:
        """Returns an exec as it stands."""
        return await self.about(place, lambda talk: talk.state())

    async def wait(self, place: Place, seconds: float) -> Exec:
        """Returns an exec when it has ended, or as it stands after so many seconds."""
        until = asyncio.get_running_loop().time() + seconds

        async def wait(following: Following) -> Exec:
            while not self.closed and (left := until - asyncio.get_running_loop().time()) > 0:
                came = await following.next(left)
                if isinstance(came, Exec) and came.end is not None:
                    return came
            return await following.state()

        return await self.follow(place, {}, wait)

    async def list(self, place: Place) -> list[Exec]:
        """Returns the execs of the current incarnation, in the order of their ids."""
        sandbox = await self._sandboxes.running(place.principal, place.key)
        incarnation = await self._sandboxes.incarnation(sandbox)
        found: list[Exec] = []
        within = self._pace.access_within
        async with conversation.reached(self._engine, sandbox, incarnation, scripts.listed(), within) as lines:
            while (words := await lines.line()) != [b"end"]:
                if not words:
                    raise conversation.Cut("the program in the sandbox has ended")
                name = words[0].decode(errors="replace")
                if _ID.match(name) and len(found) < scripts.EXECS_MOST:
                    found.append(Exec(name, incarnation, conversation.ended(words[1:])))
        return sorted(found, key=lambda one: one.id)

    async def signal(self, place: Place, name: str) -> None:
        """Sends a signal to the process group of an exec."""

        async def send(talk: Conversation) -> bool:
            sent = await talk.signal(name)
            # The command begins to run soon after its start was answered.
            while not sent:
                await asyncio.sleep(self._pace.access_look_first)
                sent = await talk.signal(name)
            return sent

        await self.about(place, send)

    async def resize(self, place: Place, terminal: Terminal) -> None:
        """Sets the size of the terminal of an exec. Raises `errors.FailedPrecondition` if it has none."""
        if await self.about(place, lambda talk: talk.resize(terminal)) is False:
            raise errors.FailedPrecondition("NO_TERMINAL", "the exec was started without a terminal")

    async def about(self, place: Place, work: Callable[[Conversation], Awaitable[T]]) -> T | Exec:
        """Returns the result of `work`, or the lost exec if its incarnation has ended or ends meanwhile."""

        def begin(sandbox: Sandbox, incarnation: str) -> AbstractAsyncContextManager[Conversation]:
            return conversation.begin(self._engine, sandbox, incarnation, place.exec_id, self._pace.access_within)

        return await self._in_incarnation(place, begin, work)

    async def follow(
        self, place: Place, offsets: Mapping[Channel, int], work: Callable[[Following], Awaitable[T]]
    ) -> T | Exec:
        """Follows the channels that have offsets. Returns as `about`."""

        def begin(sandbox: Sandbox, incarnation: str) -> AbstractAsyncContextManager[Following]:
            return following.begin(self._engine, sandbox, incarnation, place.exec_id, offsets, self._pace)

        return await self._in_incarnation(place, begin, work)

    async def _in_incarnation(
        self,
        place: Place,
        begin: Callable[[Sandbox, str], AbstractAsyncContextManager[Opened]],
        work: Callable[[Opened], Awaitable[T]],
    ) -> T | Exec:
        sandbox = await self._sandboxes.last(place.principal, place.key)
        incarnation = place.incarnation
        if incarnation and incarnation != await self._sandboxes.found(sandbox):
            return await self._lost(sandbox, place.exec_id, incarnation)
        sandboxes.check_running(sandbox)
        if not incarnation:
            incarnation = await self._sandboxes.incarnation(sandbox)

        async def do() -> T:
            with self._slots.taken(sandbox):
                async with begin(sandbox, incarnation) as opened:
                    return await work(opened)

        working = asyncio.create_task(do())
        ending = asyncio.create_task(self._sandboxes.ended(place.principal, sandbox, incarnation, self._pace.resync))
        try:
            await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done() and (ended := ending.result()) is not None:
                return await self._lost(ended, place.exec_id, incarnation)
            return await working
        except conversation.Unknown:
            raise errors.NotFound(
                "EXEC_NOT_FOUND", f"there is no exec {place.exec_id!r} in this incarnation: check its id"
            ) from None
        except conversation.Cut as cut:
            return await self._after_cut(place, incarnation, cut)
        finally:
            for task in (working, ending):
                task.cancel()
            await asyncio.gather(working, ending, return_exceptions=True)

    async def _after_cut(self, place: Place, incarnation: str, cut: conversation.Cut) -> Exec:
        """Returns the lost exec if the incarnation has ended, else raises `errors.Unavailable`.

        A sandbox takes a moment to end after the programs in it.
        """
        ended: Sandbox | None
        ended = sandbox = await self._sandboxes.last(place.principal, place.key)
        if await self._sandboxes.found(sandbox) == incarnation:
            every = self._pace.access_look_most
            try:
                async with asyncio.timeout(self._pace.access_end_shown_within):
                    ended = await self._sandboxes.ended(place.principal, sandbox, incarnation, every)
            except TimeoutError:
                ended = None
        if ended is None:
            raise sandboxes.not_reached(cut)
        return await self._lost(ended, place.exec_id, incarnation)

    async def _lost(self, sandbox: Sandbox, exec_id: str, incarnation: str) -> Exec:
        """Returns the exec of an incarnation that has ended."""
        return Exec(exec_id, incarnation, await self._sandboxes.end(sandbox, incarnation))
