"""The one table from domain errors to status codes, and how an error is sent."""

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
"""What UNAVAILABLE asks a client to wait: a restart of the service takes about as long."""
VIOLATIONS_MOST = 1536
"""Bytes of violations in one answer, which has them twice, once in base64: clients take 8 KiB of metadata, and fail the
call over more."""

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
    errors.ServiceError: code_pb2.INTERNAL,
}


def status(method: str, error: Exception, named: Mapping[str, str] = MappingProxyType({})) -> status_pb2.Status:
    """The status of an error: its code, its message, one ErrorInfo and the details that apply.

    `named`: the sandbox that the call is about. An error that nobody foresaw is INTERNAL with a reference, under which
    it is logged, and no text of its own.
    """
    metadata = dict(named)
    if not isinstance(error, errors.ServiceError):
        metadata["reference"] = reference = uuid.uuid4().hex[:12]
        log.error("internal_error", method=method, reference=reference, exc_info=error)
        said = f"the service failed; its log has the cause under the reference {reference}"
        error = errors.ServiceError("INTERNAL", said)
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
    """As many as fit an answer, and how many there are besides."""
    sizes = itertools.accumulate(len(one.field) + len(one.description) for one in violations)
    fitting = tuple(one for one, size in zip(violations, sizes, strict=True) if size <= VIOLATIONS_MOST)
    left = len(violations) - len(fitting)
    return (*fitting, errors.Violation("request", f"has {left} more bad fields")) if left else fitting


async def abort(context: grpc.aio.ServicerContext[bytes, bytes], answer: status_pb2.Status) -> NoReturn:
    """Ends the call with `answer`."""
    rich = rpc_status.to_status(answer)
    await context.abort(rich.code, rich.details, rich.trailing_metadata)
