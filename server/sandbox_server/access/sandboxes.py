"""The sandboxes that calls work in: whether one runs, in which incarnation, and when and why that ends."""

import contextlib
import time
from collections.abc import Iterator

from sandbox_server import engines, feed
from sandbox_server.domain import errors
from sandbox_server.domain.event import Event
from sandbox_server.domain.execs import End, ExitReason
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key, Sandbox

_ENDED_BY = {Reason.OUT_OF_MEMORY: ExitReason.OUT_OF_MEMORY, Reason.NODE_LOST: ExitReason.NODE_LOST}


class Sandboxes:
    """Finds sandboxes on behalf of principals. Every method raises `errors.NotFound` or `errors.Unavailable`."""

    def __init__(self, feed: feed.Feed, engine: engines.Access, pace: Pace) -> None:
        self._feed = feed
        self._engine = engine
        self._pace = pace

    @property
    def closed(self) -> bool:
        """Whether the service stops."""
        return self._feed.closed

    async def granted(self, namespace: str) -> bool | None:
        """Whether the service may enter the sandboxes of a namespace; None if that is not known now."""
        return await self._engine.granted(namespace)

    async def last(self, principal: Principal, key: Key) -> Sandbox:
        """Returns the sandbox as it stands."""
        (last,) = (await self._feed.named(_selection(principal, key))).events
        return last.event.sandbox

    async def running(self, principal: Principal, key: Key) -> Sandbox:
        """Returns the sandbox. Raises `errors.FailedPrecondition` if it is not RUNNING."""
        sandbox = await self.last(principal, key)
        check_running(sandbox)
        return sandbox

    async def incarnation(self, sandbox: Sandbox) -> str:
        """Returns the incarnation that runs. Raises as `found`, and `errors.Unavailable` if none does."""
        found = await self.found(sandbox)
        if not found:
            raise not_reached(engines.Unreachable("no process of the sandbox runs now"))
        return found

    async def found(self, sandbox: Sandbox) -> str:
        """Returns the incarnation that runs; empty if none does. Raises `errors.FailedPrecondition` if the service may not ask."""
        with refusals():
            try:
                return await self._engine.incarnation(sandbox)
            except engines.Unreachable as error:
                raise not_reached(error) from None

    async def ended(self, principal: Principal, last: Sandbox, incarnation: str, look_every: float) -> Sandbox | None:
        """Returns the sandbox once an incarnation of it has ended; None when the service stops.

        What is done in a sandbox may hang when its process ends: a connection to a pod that is gone can stay silent. So the
        engine is asked after every event of the sandbox beyond `last`, and every `look_every` seconds without one. While it
        cannot be asked, the incarnation is taken to run.
        """
        again = look_every
        while not self.closed:
            last = await self._next(principal, last, time.monotonic() + again)
            again = look_every
            try:
                if await self.found(last) != incarnation:
                    return last
            except (errors.FailedPrecondition, errors.Unavailable):
                again = min(self._pace.read_again, look_every)
        return None

    async def _next(self, principal: Principal, last: Sandbox, until: float) -> Sandbox:
        """Returns the sandbox as it stands once that is not `last` any more, or it is time."""

        def remaining(event: Event) -> float:
            return 0.0 if event.sandbox != last else until - time.monotonic()

        return (await feed.until(self._feed, _selection(principal, last.key), remaining)).event.sandbox

    async def end(self, sandbox: Sandbox, incarnation: str) -> End:
        """Returns how everything in an incarnation that has ended did end. `sandbox` is as it stands since."""
        return End(0, 0, await self._end_reason(sandbox, incarnation))

    async def _end_reason(self, sandbox: Sandbox, incarnation: str) -> ExitReason:
        if sandbox.desired is not DesiredState.RUNNING:
            return ExitReason.SANDBOX_STOPPED
        ended_by: Reason | None = None
        with contextlib.suppress(engines.Unreachable, engines.NotGranted):
            ended_by = await self._engine.ended_by(sandbox, incarnation)
        return ExitReason.POD_REPLACED if ended_by is None else _ENDED_BY[ended_by]


def check_running(sandbox: Sandbox) -> None:
    """Raises `errors.FailedPrecondition` if the sandbox is not RUNNING."""
    status = sandbox.status
    if status.phase is not Phase.RUNNING:
        raise errors.FailedPrecondition(
            "SANDBOX_NOT_RUNNING",
            f"the sandbox is {status.phase.name}: start it, or wait until it is RUNNING",
            phase=status.phase.name,
            phase_reason=status.reason.name,
        )


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Raises `errors.FailedPrecondition` for what the engine refuses, so that no repeat helps."""
    try:
        yield
    except engines.Unsupported as error:
        raise errors.FailedPrecondition("EXEC_UNSUPPORTED", str(error)) from None
    except engines.NotGranted as error:
        raise errors.FailedPrecondition("ACCESS_NOT_GRANTED", str(error)) from None


def not_reached(cause: Exception) -> errors.Unavailable:
    """Returns the error for a sandbox that cannot be reached now."""
    return errors.Unavailable(
        "SANDBOX_NOT_REACHED", f"{cause}: repeat the call with the same ids, and the last offsets or position"
    )


def _selection(principal: Principal, key: Key) -> feed.Filter:
    return feed.Filter(principal, frozenset({key}))
