"""What is said on standard error where a command fails."""

import grpc
from sandbox_client import errors

from sandboxctl import hints, options, reach, show


def explained(error: errors.ServiceError | errors.SandboxFailed) -> Exception:
    """Says what went wrong and what to do. Returns the error, as Unavailable where time ran out with nothing reached."""
    if isinstance(error, errors.SandboxFailed):
        show.failure("failed", str(error))
        return error
    found = reach.Found.UNKNOWN
    transport = isinstance(error, errors.Unavailable | errors.TimedOut) and not error.reason
    if transport and options.chosen.server:
        found = reach.look(options.chosen.server)
        if isinstance(error, errors.TimedOut) and found in reach.UNREACHED:
            said = f"{options.chosen.server} did not answer within the time"
            error = errors.Unavailable(said, grpc.StatusCode.UNAVAILABLE)
    summary = "these fields are wrong" if error.fields else error.message or error.code.name
    show.failure("error", summary)
    for field, description in error.fields.items():
        show.err.print(f"  {field} {show.printable(description)}")
    if hint := hints.hint(error, found, options.chosen.secure):
        show.err.print(f"  {hint}")
    return error
