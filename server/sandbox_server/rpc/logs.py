"""Converts the messages of StreamLogs."""

from datetime import UTC
from typing import Any

from sandbox.v1 import access_pb2 as pb

from sandbox_server.access.logs import Beat
from sandbox_server.domain import check, errors
from sandbox_server.domain.errors import Violation
from sandbox_server.domain.logs import Asked, Ended, Gap, Lines, Part
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key
from sandbox_server.rpc import convert

POSITION_MOST = 200


def asked(principal: Principal, request: pb.StreamLogsRequest) -> tuple[Key, Asked]:
    """Returns of which sandbox to send which output. Raises `errors.Invalid` with every bad field, and `errors.NotFound`."""
    found = [
        *check.sandbox_id("sandbox_id", request.sandbox_id, True),
        *convert.bad_namespace(principal, request.namespace),
    ]
    tail = request.tail_lines if request.HasField("tail_lines") else None
    if tail is not None and tail < 0:
        found.append(Violation("tail_lines", "must not be negative"))
    since = None
    if request.HasField("since"):
        try:
            since = request.since.ToDatetime(tzinfo=UTC)
        except (ValueError, OverflowError):
            found.append(Violation("since", "must be a time"))
    if len(request.after_position) > POSITION_MOST:
        found.append(Violation("after_position", "must be a position of an answer, or empty"))
    if found:
        raise errors.Invalid(tuple(found))
    wanted = Asked(request.previous, request.follow, tail, since, request.after_position)
    return principal.key(request.namespace, request.sandbox_id), wanted


def part(one: Part | Beat) -> bytes:
    """Returns the encoded message of a stream."""
    match one:
        case Lines(data, position, at):
            fields: dict[str, Any] = {"lines": {"data": data, "position": position, "at": at}}
        case Gap():
            fields = {"gap": {}}
        case Ended(reason):
            fields = {"ended": {"reason": reason.value}}
        case Beat():
            fields = {"heartbeat": {}}
    return pb.StreamLogsResponse(**fields).SerializeToString()
