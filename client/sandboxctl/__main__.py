"""Runs the command: its exit codes, and what is said where it fails."""

import io
import sys
from typing import NoReturn

import grpc
import typer
from sandbox_client import errors

from sandboxctl import hints, options, reach, show
from sandboxctl.commands import app

_EXIT_CODES: dict[type[Exception], int] = {
    errors.InvalidArgument: 2,
    errors.NotFound: 3,
    errors.TimedOut: 4,
    errors.Unavailable: 5,
    errors.Unauthenticated: 5,
}


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command and exits with its code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As on standard error: what the output cannot encode, of a cluster's words say, is no reason to end.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options.everywhere(typer.main.get_command(app))(arguments)
    except errors.ServiceError as error:
        explained = _explain(error)
        sys.exit(_EXIT_CODES.get(type(explained), 1))
    except errors.SandboxFailed as error:
        show.failure("failed", str(error))
        sys.exit(1)
    except (OSError, ValueError) as error:
        show.failure("error", str(error))
        # One that names no file is of the output, which is no argument.
        sys.exit(1 if isinstance(error, OSError) and error.filename is None else 2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _explain(error: errors.ServiceError) -> errors.ServiceError:
    """Says what went wrong and what to do. Returns the error, as Unavailable where time ran out with nothing reached."""
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


if __name__ == "__main__":
    main()
