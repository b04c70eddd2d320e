"""Runs the command, and turns errors into messages and exit codes."""

import io
import os
import sys
from typing import NoReturn

import typer
from sandbox_client import errors

from sandboxctl import failures, options, show
from sandboxctl.commands import app


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command and exits with its code."""
    _open_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As on standard error: a character that the output cannot encode, for example in a message of the cluster, must
        # not end the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    options.chosen.begin(options.Given())
    try:
        options.everywhere(typer.main.get_command(app))(arguments, prog_name="sandboxctl")
    except (errors.ServiceError, errors.SandboxFailed, errors.SnapshotFailed) as error:
        sys.exit(failures.exit_code(failures.explained(error)))
    except UnicodeEncodeError:
        show.failure("error", "an argument is not UTF-8 text")
        sys.exit(2)
    except (OSError, ValueError) as error:
        show.failure("error", str(error))
        # An OSError without a file comes from writing the output. Other errors are those of arguments.
        from_output = isinstance(error, OSError) and error.filename is None
        sys.exit(1 if from_output else 2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _open_streams() -> None:
    """Opens /dev/null in place of each closed standard stream, before a connection gets the number of its descriptor.

    What is written to it is lost, and reading from it is an error.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), mode))


if __name__ == "__main__":
    main()
