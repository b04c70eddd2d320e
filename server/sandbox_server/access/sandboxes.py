"""The sandboxes that calls work in: whether one runs, and in which incarnation."""

from sandbox_server import engines, feed
from sandbox_server.domain import errors
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key, Sandbox


class Sandboxes:
    """Finds sandboxes on behalf of principals. Every method raises `errors.NotFound` or `errors.Unavailable`."""

    def __init__(self, feed: feed.Feed, engine: engines.Access) -> None:
        self._feed = feed
        self._engine = engine

    @property
    def closed(self) -> bool:
        """Whether the service stops."""
        return self._feed.closed

    async def last(self, principal: Principal, key: Key) -> Sandbox:
        """Returns the sandbox as it stands."""
        selection = feed.Filter(principal, frozenset({key}))
        (last,) = (await self._feed.named(selection)).events
        return last.event.sandbox

    async def running(self, principal: Principal, key: Key) -> Sandbox:
        """Returns the sandbox. Raises `errors.FailedPrecondition` if it is not RUNNING."""
        sandbox = await self.last(principal, key)
        check_running(sandbox)
        return sandbox

    async def incarnation(self, sandbox: Sandbox) -> str:
        """Returns the current incarnation. Raises `errors.FailedPrecondition` if the engine cannot enter the sandbox."""
        try:
            return await self._engine.incarnation(sandbox)
        except engines.Unsupported as error:
            raise errors.FailedPrecondition("EXEC_UNSUPPORTED", str(error)) from None
        except engines.Unreachable as error:
            raise not_reached(error) from None


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


def not_reached(cause: Exception) -> errors.Unavailable:
    """Returns the error for a sandbox that cannot be reached now."""
    return errors.Unavailable(
        "SANDBOX_NOT_REACHED", f"{cause}: repeat the call with the same ids, and the last offsets or position"
    )
