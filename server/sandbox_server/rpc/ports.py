"""Converts the messages of ForwardPort."""

from collections.abc import AsyncIterator

from sandbox.v1 import access_pb2 as pb

from sandbox_server.access.ports import Bytes
from sandbox_server.domain import check, errors
from sandbox_server.domain.errors import Violation
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key
from sandbox_server.rpc import convert
from sandbox_server.rpc.receive import Stream

DATA_MOST = 1 << 20


async def asked(principal: Principal, requests: Stream[pb.ForwardPortRequest]) -> tuple[Key, int, AsyncIterator[Bytes]]:
    """Returns the sandbox, the port and what is sent to it. Raises `errors.Invalid`, for parts too, and `errors.NotFound`."""
    first = requests.first
    found = [
        *check.sandbox_id("sandbox_id", first.sandbox_id, True),
        *convert.bad_namespace(principal, first.namespace),
    ]
    if not 1 <= first.port <= 65535:
        found.append(Violation("port", "must be from 1 to 65535"))
    if found:
        raise errors.Invalid(tuple(found))

    async def parts() -> AsyncIterator[Bytes]:
        yield _part(first)
        async for one in requests.rest():
            yield _part(one)

    return principal.key(first.namespace, first.sandbox_id), first.port, parts()


def _part(request: pb.ForwardPortRequest) -> Bytes:
    if len(request.data) > DATA_MOST:
        raise errors.Invalid((Violation("data", f"must be at most {DATA_MOST} bytes: send several messages"),))
    return Bytes(request.data, request.eof)


def part(one: Bytes) -> bytes:
    """Returns the encoded message of a stream."""
    return pb.ForwardPortResponse(data=one.data, eof=one.eof).SerializeToString()
