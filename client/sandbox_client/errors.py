"""What can go wrong, by type. Each carries the service's reason, and where they apply the fields and the delay."""

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from sandbox.v1 import sandbox_pb2 as pb

from sandbox_client import words


class ServiceError(Exception):
    """A call that failed.

    `code` is the canonical status, `reason` the service's word for it (empty if the service did not say), `fields` what
    each bad field takes, `reference` what to quote to the operators, `retry_after` the seconds to wait.
    """

    def __init__(
        self,
        message: str,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        fields: dict[str, str] | None = None,
        reference: str = "",
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.fields = fields or {}
        self.reference = reference
        self.retry_after = retry_after


class InvalidArgument(ServiceError):
    """A field is wrong: see `fields`. Repeating does not help."""


class NotFound(ServiceError):
    """There is no such sandbox."""


class AlreadyExists(ServiceError):
    """The id is taken."""


class FailedPrecondition(ServiceError):
    """The sandbox's state does not allow it: see `reason`."""


class Aborted(ServiceError):
    """The generation is not the expected one: read it and decide again."""


class OutOfRange(ServiceError):
    """The watch cannot resume there: the history is trimmed."""


class Unauthenticated(ServiceError):
    """No token, or one that the service does not know."""


class Unavailable(ServiceError):
    """The service could not be reached within the time, or was not ready."""


class TimedOut(ServiceError):
    """The time ran out. A mutation may have taken effect."""


class SandboxFailed(Exception):
    """A sandbox that was waited for came to PHASE_ERROR, or ended. `status` says why."""

    def __init__(self, status: pb.SandboxStatus) -> None:
        reason = words.short(pb.Reason, status.reason)
        super().__init__(f"{status.sandbox_id}: {reason}: {status.message}")
        self.status = status


_TYPES: dict[grpc.StatusCode, type[ServiceError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOut,
}


def from_rpc(error: Any) -> ServiceError:
    """The typed error of a `grpc.RpcError`, of either kind of channel."""
    code, message = error.code(), error.details() or ""
    reason = reference = ""
    fields: dict[str, str] = {}
    retry_after = 0.0
    for detail in _details(error):
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            reason, reference = info.reason, info.metadata.get("reference", "")
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            request = error_details_pb2.BadRequest.FromString(detail.value)
            fields = {one.field: one.description for one in request.field_violations}
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry_after = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay.ToNanoseconds() / 1e9
    return _TYPES.get(code, ServiceError)(message, code, reason, fields, reference, retry_after)


def _details(error: Any) -> list[Any]:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return list(status_pb2.Status.FromString(value).details)
    return []
