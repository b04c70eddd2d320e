"""Maps domain errors to gRPC statuses, and sends them."""

import itertools
import uuid
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

import grpc
import structlog
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from sandbox_server.domain import errors

log = structlog.get_logger()

DOMAIN = "sandbox.fullstackagent.io"
RETRY_SECONDS = 1
"""The delay that UNAVAILABLE asks a client for: about as long as a restart of the service."""
VIOLATIONS_MOST = 1536
"""Bytes of violations in one answer, which contains them twice, once in base64. Clients accept 8 KiB of metadata and fail
the call over more."""

CODES: dict[type[errors.ServiceError], int] = {
    errors.Invalid: code_pb2.INVALID_ARGUMENT,
    errors.NotFound: code_pb2.NOT_FOUND,
    errors.AlreadyExists: code_pb2.ALREADY_EXISTS,
    errors.FailedPrecondition: code_pb2.FAILED_PRECONDITION,
    errors.Aborted: code_pb2.ABORTED,
    errors.ResourceExhausted: code_pb2.RESOURCE_EXHAUSTED,
    errors.OutOfRange: code_pb2.OUT_OF_RANGE,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.PermissionDenied: code_pb2.PERMISSION_DENIED,
    errors.Unavailable: code_pb2.UNAVAILABLE,
    errors.DeadlineExceeded: code_pb2.DEADLINE_EXCEEDED,
    errors.ServiceError: code_pb2.INTERNAL,
}


def status(method: str, error: Exception, named: Mapping[str, str] = MappingProxyType({})) -> status_pb2.Status:
    """Returns the status of an error: its code, its message, one ErrorInfo and the details of that code.

    `named` is the sandbox that the call is about. An unforeseen error becomes INTERNAL with a reference. It is logged
    under that reference, and its own text is not sent.
    """
    metadata = dict(named)
    if not isinstance(error, errors.ServiceError):
        reference = uuid.uuid4().hex[:12]
        metadata["reference"] = reference
        log.error("internal_error", method=method, reference=reference, exc_info=error)
        message = f"the service failed; its log has the cause under the reference {reference}"
        error = errors.ServiceError("INTERNAL", message)
    elif isinstance(error, errors.Invalid):
        error = errors.Invalid(_fitting(error.violations), error.reason)
    answer = status_pb2.Status(code=CODES[type(error)], message=error.message)
    metadata |= error.facts
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    for detail in (info, *_details(error)):
        answer.details.add().Pack(detail)
    return answer


def _details(error: errors.ServiceError) -> Iterator[Any]:
    match error:
        case errors.Invalid(violations=violations):
            fields = [{"field": one.field, "description": one.description} for one in violations]
            yield error_details_pb2.BadRequest(field_violations=fields)
        case errors.FailedPrecondition():
            violation = {"type": error.reason, "subject": "sandbox", "description": error.message}
            yield error_details_pb2.PreconditionFailure(violations=[violation])
        case errors.Unavailable():
            yield error_details_pb2.RetryInfo(retry_delay={"seconds": RETRY_SECONDS})


def _fitting(violations: tuple[errors.Violation, ...]) -> tuple[errors.Violation, ...]:
    """Returns as many violations as fit into an answer, and one more that counts the rest."""
    sizes = itertools.accumulate(len(one.field) + len(one.description) for one in violations)
    fitting = tuple(one for one, size in zip(violations, sizes, strict=True) if size <= VIOLATIONS_MOST)
    left_out = len(violations) - len(fitting)
    if left_out == 0:
        return fitting
    return (*fitting, errors.Violation("request", f"has {left_out} more bad fields"))


async def abort(context: grpc.aio.ServicerContext[bytes, bytes], answer: status_pb2.Status) -> NoReturn:
    """Ends the call with `answer`. Always raises, as gRPC's own `abort` does."""
    rich = rpc_status.to_status(answer)
    await context.abort(rich.code, rich.details, rich.trailing_metadata)
