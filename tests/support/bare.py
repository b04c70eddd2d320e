"""A server without a service behind it, for tests of what every call has in common."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.tenant import Tenant
from sandbox_server.rpc import auth, calls, server
from sandbox_server.rpc.servicer import Servicer
from sandbox_server.settings import Settings

from tests.support import samples

ANYONE = auth.Anyone(Tenant("default", ("default",)))


def sandboxes(pace: Pace) -> Servicer:
    """Returns the servicer of the contract, whose calls fail once they ask the service for anything."""
    nobody: Any = None
    settings = Settings()
    return Servicer(nobody, nobody, nobody, nobody, settings.defaults, settings.policy, pace, samples.DEPLOYMENT)


@contextlib.asynccontextmanager
async def served(
    authenticator: auth.Authenticator = ANYONE,
    servicer: calls.Servicer | None = None,
    within: float = Pace.message_within,
    reflects: bool = True,
) -> AsyncIterator[tuple[server.Server, grpc.aio.Channel]]:
    """Serves a servicer, by default that of the contract, and yields the server and a channel to it.

    `within` are the seconds that the message of a call may take to arrive.
    """
    pace = Pace(message_within=within)
    serving = server.Server((servicer or sandboxes(pace),), calls.Calls(authenticator, pace), reflects)
    port = await serving.start("127.0.0.1:0", None)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            yield serving, channel
        finally:
            await serving.close()
