"""usage: sandbox-server [COMMAND] [--SETTING VALUE]...
       sandbox-server --version

commands:
  serve        run the service (the default)
  config       print every setting, secrets hidden
  render       print the YAML of a sandbox read as a CreateSandboxRequest in JSON from standard input
  migrate      migrate the database to the schema of this release
  rotate-keys  encrypt all environments with the first key
  health       print the version of the service at --listen; exit 0 if it is SERVING
  doctor       check what the service needs and print the remedy of each failure; exit 1 if there is one
               (--output json for programs)
  import       read in the database of the former system (--from postgresql://...) to whom its sandboxes belong;
               --dry-run writes nothing, --output json is for programs
  adopt        adopt the sandboxes that a former system made in --namespace (--dry-run says which; --help)

Every setting is a flag and an environment variable: --data-dir is SANDBOX_DATA_DIR. `sandbox-server config` lists them,
`sandbox-server serve --help` describes them. A warning names each other variable that begins with SANDBOX_.
"""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

# gRPC reads this when it is imported. Its own lines must not be among the log lines on standard error; failures that
# matter are raised as errors.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Its handlers of a fork, which are on by default, lose bytes of connections that other threads serve meanwhile: messages
# of callers break, or never arrive. The local engine starts a program for most calls, and none of them uses gRPC.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def _incomplete(error: ModuleNotFoundError) -> NoReturn:
    """Exits with advice if a package of the extra `server` is missing. Raises the error of another missing module."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "sandbox", "sandbox_server"):
        raise error
    install = "pip install 'sandbox-service[server]'"
    sys.exit(f"sandbox-server: {package} is not installed: the server needs the extra `server`: {install}")


try:
    import structlog
    from pydantic import ValidationError

    from sandbox_server import VERSION, commands, failpoints, settings
    from sandbox_server.domain import errors
except ModuleNotFoundError as error:
    _incomplete(error)


def main() -> None:
    """Runs a command. Exits 2 for bad settings and 1 for a failure, with a line on standard error that says what to do."""
    open_streams()
    arguments = sys.argv[1:]
    if arguments in (["-h"], ["--help"]):
        sys.stdout.write(__doc__)
        return
    if arguments in (["-V"], ["--version"]):
        sys.stdout.write(f"sandbox-server {VERSION}\n")
        return
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "serve"
    command = COMMANDS.get(name)
    if command is None:
        sys.exit(f"sandbox-server: there is no command {name!r}\n\n{__doc__}")
    try:
        chosen = settings.load(arguments, SETTINGS.get(name, settings.Settings))
    except ValidationError as error:
        for found in error.errors(include_input=False, include_url=False):
            flag = [str(part).replace("_", "-") for part in found["loc"]]
            message = found["msg"].removeprefix("Value error, ")
            sys.stderr.write(f"sandbox-server: {': '.join([*flag, message])}\n")
        sys.exit(2)
    configure_logs(chosen)
    if command not in (commands.health, commands.doctor):
        warn_of_unknown_variables(type(chosen))
    failpoints.arm(chosen.failpoints)
    try:
        command(chosen)
    except ModuleNotFoundError as error:
        _incomplete(error)
    except (ValueError, OSError, errors.ServiceError) as error:
        sys.exit(f"sandbox-server: {error}")


def open_streams() -> None:
    """Puts something in the place of each standard stream that is closed, before a file or a connection takes its number.

    What is written is lost then, and reading is an error.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), mode))


def warn_of_unknown_variables(kind: type[settings.Settings]) -> None:
    """Logs a warning for each environment variable that looks like a setting but is none of that kind."""
    for name, like in settings.unknown(os.environ, kind).items():
        structlog.get_logger().warning("unknown_variable", name=name, **({"did_you_mean": like} if like else {}))


def configure_logs(chosen: settings.Settings) -> None:
    """Logs to standard error, a line for each event.

    A line that cannot be written is dropped: a full disk or a reader that left must not stop the service.
    """
    lines = logging.getLogger(__package__)
    lines.addHandler(logging.StreamHandler())
    lines.setLevel(chosen.log_level.upper())
    lines.propagate = False
    logging.raiseExceptions = False
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if chosen.log_format == "console":
        renderer = structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"])
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
            _printable,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(lines.level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _printable(_logger: Any, _method: str, line: Any) -> str:
    """Returns the line with control characters escaped: text from a cluster or a caller must not control a terminal."""
    if line.isprintable():
        return str(line)
    return "".join(one if one.isprintable() else rf"\u{ord(one):04x}" for one in line)


COMMANDS: dict[str, Callable[..., None]] = {
    "serve": commands.serve,
    "config": commands.config,
    "render": commands.render,
    "migrate": commands.migrate,
    "rotate-keys": commands.rotate_keys,
    "health": commands.health,
    "doctor": commands.doctor,
    "import": commands.import_,
    "adopt": commands.adopt,
}
SETTINGS: dict[str, type[settings.Settings]] = {
    "doctor": settings.Doctor,
    "import": settings.IMPORT,
    "adopt": settings.Adoption,
}
"""The commands that take more than the settings of the service."""

if __name__ == "__main__":
    main()
