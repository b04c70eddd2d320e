"""Runs the command: its exit codes, and what is said where it fails."""

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
        # As on standard error: what the output cannot encode, of a cluster's words say, is no reason to end.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options.everywhere(typer.main.get_command(app))(arguments)
    except (errors.ServiceError, errors.SandboxFailed) as error:
        sys.exit(failures.exit_code(failures.explained(error)))
    except UnicodeEncodeError:
        show.failure("error", "an argument is not UTF-8 text")
        sys.exit(2)
    except (OSError, ValueError) as error:
        show.failure("error", str(error))
        # One that names no file is of the output, which is no argument.
        sys.exit(1 if isinstance(error, OSError) and error.filename is None else 2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _open_streams() -> None:
    """Puts something in the place of each standard stream that is closed, before a connection takes its number.

    What is written is lost then, and reading is an error.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), mode))


if __name__ == "__main__":
    main()
