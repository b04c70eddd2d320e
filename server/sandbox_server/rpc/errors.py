"""The one table from domain errors to status codes, and how an error is sent."""

import uuid
from typing import NoReturn

import grpc
import structlog
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from sandbox_server.domain import errors

log = structlog.get_logger()

DOMAIN = "sandbox.fullstackagent.io"
RETRY_SECONDS = 1
"""What UNAVAILABLE asks a client to wait: a restart of the service takes about as long."""

CODES: dict[type[errors.ServiceError], int] = {
    errors.Invalid: code_pb2.INVALID_ARGUMENT,
    errors.NotFound: code_pb2.NOT_FOUND,
    errors.AlreadyExists: code_pb2.ALREADY_EXISTS,
    errors.FailedPrecondition: code_pb2.FAILED_PRECONDITION,
    errors.Aborted: code_pb2.ABORTED,
    errors.OutOfRange: code_pb2.OUT_OF_RANGE,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.Unavailable: code_pb2.UNAVAILABLE,
    errors.DeadlineExceeded: code_pb2.DEADLINE_EXCEEDED,
}


def to_status(error: errors.ServiceError) -> status_pb2.Status:
    """The status of a known error: its code, its message, one ErrorInfo and the details that apply."""
    answer = status_pb2.Status(code=CODES[type(error)], message=error.message)
    _add(answer, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN))
    if isinstance(error, errors.Invalid):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=one.field, description=one.description)
            for one in error.violations
        ]
        _add(answer, error_details_pb2.BadRequest(field_violations=violations))
    elif isinstance(error, errors.FailedPrecondition):
        violation = error_details_pb2.PreconditionFailure.Violation(
            type=error.reason, subject="sandbox", description=error.message
        )
        _add(answer, error_details_pb2.PreconditionFailure(violations=[violation]))
    elif isinstance(error, errors.Unavailable):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromSeconds(RETRY_SECONDS)
        _add(answer, retry)
    return answer


def unforeseen(method: str, error: Exception) -> status_pb2.Status:
    """INTERNAL with a reference and no text of `error`, which is logged under that reference."""
    reference = uuid.uuid4().hex[:12]
    log.error("internal_error", method=method, reference=reference, exc_info=error)
    answer = status_pb2.Status(
        code=code_pb2.INTERNAL, message=f"the service failed; its log has the cause under the reference {reference}"
    )
    _add(answer, error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN, metadata={"reference": reference}))
    return answer


def _add(
    answer: status_pb2.Status,
    detail: error_details_pb2.ErrorInfo
    | error_details_pb2.BadRequest
    | error_details_pb2.PreconditionFailure
    | error_details_pb2.RetryInfo,
) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    answer.details.append(packed)


async def abort(context: grpc.aio.ServicerContext[bytes, bytes], answer: status_pb2.Status) -> NoReturn:
    """Ends the call with `answer`."""
    rich = rpc_status.to_status(answer)
    await context.abort(rich.code, rich.details, rich.trailing_metadata)
