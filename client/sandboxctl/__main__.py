"""Runs the command: its exit codes, and what is said where it fails."""

import io
import sys
from typing import NoReturn

import typer
from sandbox_client import errors

from sandboxctl import failures, options, show
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
    except (errors.ServiceError, errors.SandboxFailed) as error:
        sys.exit(_EXIT_CODES.get(type(failures.explained(error)), 1))
    except (OSError, ValueError) as error:
        show.failure("error", str(error))
        # One that names no file is of the output, which is no argument.
        sys.exit(1 if isinstance(error, OSError) and error.filename is None else 2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


if __name__ == "__main__":
    main()
