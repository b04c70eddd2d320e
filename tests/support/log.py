"""The log of a service, read by a caller."""

from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient, Kind

from tests.support.waiting import PATIENCE


async def whole_log(client: AsyncClient, last: int) -> list[pb.SandboxStatus]:
    """Returns every status up to the sequence `last`."""
    found: list[pb.SandboxStatus] = []
    async for event in client.watch(after_sequence=0, timeout=60 * PATIENCE):
        assert event.kind is Kind.CHANGE
        assert event.status is not None
        found.append(event.status)
        if event.sequence >= last:
            break
    assert [one.sequence for one in found] == list(range(1, last + 1))
    return found
