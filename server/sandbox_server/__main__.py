"""usage: sandbox-server [COMMAND] [--SETTING VALUE]...
       sandbox-server --version

commands:
  serve        run the service (the default)
  config       print every setting, secrets hidden
  render       print the YAML of a sandbox read as a CreateSandboxRequest in JSON from standard input
  migrate      bring the database's schema to this release's
  rotate-keys  encrypt with the first key what others wrote
  health       print the version of the service at --listen; exit 0 if it is SERVING

Every setting is a flag and an environment variable: --data-dir is SANDBOX_DATA_DIR. `sandbox-server config` lists them,
`sandbox-server serve --help` describes them. Other variables that begin with SANDBOX_ are warned of.
"""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

# gRPC reads it as it is imported. Standard error is a log of our lines alone: what matters of gRPC's comes as an error.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def _incomplete(error: ModuleNotFoundError) -> NoReturn:
    """Ends the command where the packages of the server were not installed; another module that is missing is raised."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "sandbox", "sandbox_server"):
        raise error
    install = "pip install 'sandbox-service[server]'"
    sys.exit(f"sandbox-server: {package} is not installed: the server needs the extra `server`: {install}")


try:
    import structlog
    from pydantic import ValidationError

    from sandbox_server import VERSION, commands, settings, store
    from sandbox_server.domain import errors
except ModuleNotFoundError as error:
    _incomplete(error)


def main() -> None:
    """Runs a command; exits 2 for a bad setting and 1 for a failure, with one line that says what to do."""
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
        chosen = settings.load(arguments)
    except ValidationError as error:
        for one in error.errors(include_input=False, include_url=False):
            flag = [str(part).replace("_", "-") for part in one["loc"]]
            said = ": ".join([*flag, one["msg"].removeprefix("Value error, ")])
            sys.stderr.write(f"sandbox-server: {said}\n")
        sys.exit(2)
    configure_logs(chosen)
    if command is not commands.health:
        warn_of_unknown_variables()
    try:
        command(chosen)
    except ModuleNotFoundError as error:
        _incomplete(error)
    except (ValueError, OSError, store.SchemaMismatch, errors.ServiceError) as error:
        sys.exit(f"sandbox-server: {error}")


def warn_of_unknown_variables() -> None:
    """Logs a warning for each variable of the environment that looks like a setting and is none."""
    for name, like in settings.unknown(os.environ).items():
        structlog.get_logger().warning("unknown_variable", name=name, **({"did_you_mean": like} if like else {}))


def configure_logs(chosen: settings.Settings) -> None:
    """One line an event on standard error.

    A line that cannot be written is lost: a full disk, or a reader that left, is in nothing else's way.
    """
    lines = logging.getLogger(__package__)
    lines.addHandler(logging.StreamHandler())
    lines.setLevel(chosen.log_level.upper())
    lines.propagate = logging.raiseExceptions = False
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
    """A line of which nothing moves a terminal's cursor: what a cluster or a caller says may be in it."""
    if line.isprintable():
        return str(line)
    return "".join(one if one.isprintable() else rf"\u{ord(one):04x}" for one in line)


COMMANDS: dict[str, Callable[[settings.Settings], None]] = {
    "serve": commands.serve,
    "config": commands.config,
    "render": commands.render,
    "migrate": commands.migrate,
    "rotate-keys": commands.rotate_keys,
    "health": commands.health,
}

if __name__ == "__main__":
    main()
