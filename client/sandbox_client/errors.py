"""The errors of calls and waits, by type."""

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import snapshot_pb2

from sandbox_client import words


class ServiceError(Exception):
    """A call that failed.

    - `code`: the gRPC status code.
    - `reason`: the reason that the service gave (see the contract); empty if the error is not from the service.
    - `fields`: what each bad field must be, by its name.
    - `reference`: what to quote to the operators; empty unless the service failed.
    - `retry_after`: seconds to wait before a repeat, 0 if the service did not ask for that.
    - `facts`: what else the contract says of the error, such as `incarnation` or `accepted_offset`, by its name.
    """

    def __init__(
        self,
        message: str,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        fields: dict[str, str] | None = None,
        reference: str = "",
        retry_after: float = 0.0,
        facts: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.fields = fields or {}
        self.reference = reference
        self.retry_after = retry_after
        self.facts = facts or {}


class InvalidArgument(ServiceError):
    """Fields are wrong: see `fields`. Repeating the call does not help."""


class NotFound(ServiceError):
    """There is no such sandbox, exec or file: see `reason`."""


class AlreadyExists(ServiceError):
    """The id is taken."""


class FailedPrecondition(ServiceError):
    """The state of the sandbox does not allow the call: see `reason`."""


class Aborted(ServiceError):
    """The sandbox is not at the expected generation or incarnation. Read it and decide again."""


class OutOfRange(ServiceError):
    """The position is not there: a sequence whose history is no longer kept, or an offset that was not reached."""


class Unauthenticated(ServiceError):
    """The call had no token, or the service does not know its token."""


class PermissionDenied(ServiceError):
    """The token is known and may not be used for this call: that of an operator, for a mutation. See `reason`."""


class Unavailable(ServiceError):
    """The service could not be reached in time, or was not ready."""


class TimedOut(ServiceError):
    """The time ran out before there was an answer. A mutation may have taken effect."""


class SandboxFailed(Exception):
    """The sandbox that was waited for is in PHASE_ERROR, or has ended. `status` says why."""

    def __init__(self, status: pb.SandboxStatus) -> None:
        reason = words.short(pb.Reason, status.reason)
        super().__init__(f"{status.sandbox_id}: {reason}: {status.message}")
        self.status = status


class SnapshotFailed(Exception):
    """The snapshot that was waited for has failed, or is gone. `snapshot` says why."""

    def __init__(self, snapshot: snapshot_pb2.Snapshot) -> None:
        reason = words.short(snapshot_pb2.SnapshotReason, snapshot.reason)
        super().__init__(f"{snapshot.snapshot_id}: {reason}: {snapshot.message}")
        self.snapshot = snapshot


class VerificationFailed(SnapshotFailed):
    """The verification that was waited for has failed, or there is none. `snapshot.verification` says why."""

    def __init__(self, snapshot: snapshot_pb2.Snapshot) -> None:
        super().__init__(snapshot)
        last = snapshot.verification
        reason = words.short(snapshot_pb2.SnapshotReason, last.reason)
        why = f"{reason}: {last.message}" if last.state else "it was never verified"
        self.args = (f"{snapshot.snapshot_id}: {why}",)


_TYPES: dict[grpc.StatusCode, type[ServiceError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOut,
}


_OWN = ("Locally cancelled by application!", "Channel closed!")
"""What gRPC says of a call that this process has cancelled itself."""


def from_rpc(error: Any) -> ServiceError:
    """Returns the typed error of a `grpc.RpcError` or a `grpc.aio.AioRpcError`.

    A service that stops cancels the calls that it has not taken yet: to a caller it is unavailable.
    """
    code = error.code()
    message = error.details() or ""
    if code is grpc.StatusCode.CANCELLED and message not in _OWN:
        code = grpc.StatusCode.UNAVAILABLE
    reason = ""
    reference = ""
    fields: dict[str, str] = {}
    facts: dict[str, str] = {}
    retry_after = 0.0
    for detail in _details(error):
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            reason = info.reason
            facts = dict(info.metadata)
            reference = facts.pop("reference", "")
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            request = error_details_pb2.BadRequest.FromString(detail.value)
            fields = {one.field: one.description for one in request.field_violations}
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry_after = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay.ToNanoseconds() / 1e9
    return _TYPES.get(code, ServiceError)(message, code, reason, fields, reference, retry_after, facts)


def _details(error: Any) -> list[Any]:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return list(status_pb2.Status.FromString(value).details)
    return []
