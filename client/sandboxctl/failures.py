"""Reports the failure of a command on standard error."""

import grpc
from sandbox_client import errors

from sandboxctl import hints, options, reach, show

_EXIT_CODES: dict[type[Exception], int] = {
    errors.InvalidArgument: 2,
    errors.NotFound: 3,
    errors.TimedOut: 4,
    errors.Unavailable: 5,
    errors.Unauthenticated: 5,
    errors.PermissionDenied: 5,
}


def exit_code(error: Exception) -> int:
    """Returns the exit code of a command that fails with `error`."""
    return _EXIT_CODES.get(type(error), 1)


def explained(
    error: errors.ServiceError | errors.SandboxFailed | errors.SnapshotFailed, sandbox_id: str | None = None
) -> Exception:
    """Prints what went wrong and what to do. Returns the error, or Unavailable for a timeout without a connection.

    `sandbox_id` is the sandbox of the error if the command has several.
    """
    if isinstance(error, errors.SandboxFailed | errors.SnapshotFailed):
        show.failure("failed", str(error))
        return error
    found = reach.Found.UNKNOWN
    transport = isinstance(error, errors.Unavailable | errors.TimedOut) and not error.reason
    if transport and options.chosen.server:
        found = reach.look(options.chosen.server)
        if isinstance(error, errors.TimedOut) and found in reach.UNREACHED:
            message = f"{options.chosen.server} did not answer within the time"
            error = errors.Unavailable(message, grpc.StatusCode.UNAVAILABLE)
    summary = "these fields are wrong" if error.fields else error.message or error.code.name
    if sandbox_id is not None and repr(sandbox_id) not in summary:
        summary = f"{sandbox_id!r}: {summary}"
    show.failure("error", summary)
    for field, description in error.fields.items():
        show.err.print(f"  {field} {show.printable(description)}")
    hint = hints.hint(error, found, options.chosen.secure)
    if hint:
        show.err.print(f"  {hint}")
    return error
