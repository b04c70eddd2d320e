"""The options of every command. They may come before or after the command; the last one counts."""

import contextlib
import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from sandbox_client import calls
from sandbox_client.sync import Client

from sandboxctl import contexts, reach, show

T = TypeVar("T")
C = TypeVar("C")

REQUEST_TIMEOUT = 10.0
"""Seconds for a call by default: longer than a restart of the service takes, and not too long for a person to wait."""
_LONGEST = 86_400.0
"""Seconds for a call at most."""


class Output(StrEnum):
    """The format of answers."""

    TABLE = "table"
    WIDE = "wide"
    NAME = "name"
    JSON = "json"
    YAML = "yaml"


class _Client(Client):
    """Reports a service that does not answer, and goes on trying."""

    def __init__(self, server: str, *, request_timeout: float, **options: Any) -> None:
        super().__init__(server, timeout=request_timeout, contact_timeout=request_timeout, **options)
        self._server = server
        self._request_timeout = request_timeout

    def call(self, call: calls.Call[T]) -> T:
        with reach.patiently(self._server, lambda: show.unanswered(self._server, self._request_timeout)):
            return super().call(call)


def _seconds(text: str) -> float:
    """Returns the value of `--request-timeout`. Raises BadParameter for what is no time for a call."""
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if 0 < seconds <= _LONGEST:
            return seconds
    raise typer.BadParameter(f"{text!r} must be seconds: a number above 0 and of at most {_LONGEST:.0f}")


def _token(file: Path) -> str:
    """Returns the token in a file. Raises OSError, or ValueError if the file has none."""
    try:
        token = file.read_text("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{file} has no token: it is not text") from None
    if not token:
        raise ValueError(f"{file} has no token: it is empty")
    return token


@dataclass
class Given:
    """The values of these options, of the command line and the environment."""

    server: str | None = None
    token_file: Path | None = None
    token: str = ""
    tls: bool | None = None
    ca_file: Path | None = None
    namespace: str = ""
    context_name: str | None = None
    request_timeout: float = REQUEST_TIMEOUT
    output: Output = Output.TABLE


class Chosen:
    """What a command goes by: its options, and the context of the config file where no server is given.

    A server that is given replaces the context as a whole: the token of one service is not for another. All is resolved
    when a command first needs it, after all options are parsed.
    """

    def __init__(self) -> None:
        self.given = Given()

    def begin(self, given: Given) -> None:
        """Forgets an earlier command of this process."""
        client = self.__dict__.pop("client", None)
        if client is not None:
            client.close()
        self.__dict__.pop("_context", None)
        self.given = given

    @cached_property
    def _context(self) -> contexts.Context:
        given = self.given
        if given.server is None:
            return contexts.load().context(given.context_name or "")
        if given.context_name is not None:
            raise ValueError("a server and a context are given: leave one out (see SANDBOX_SERVER and SANDBOX_CONTEXT)")
        return contexts.Context(given.server)

    @cached_property
    def client(self) -> Client:
        """The client. Raises OSError or ValueError for an address, a token or an authority that cannot be used."""
        return self.connected(functools.partial(_Client, request_timeout=self.given.request_timeout))

    def connected(self, kind: Callable[..., C]) -> C:
        """Returns a client of that kind. Raises as `client`."""
        file = self.given.token_file or (None if self.given.token else self._context.token_file)
        token = _token(file) if file else self.given.token
        return kind(self.server, token=token, tls=self.tls, ca_file=self._ca_file)

    @property
    def server(self) -> str:
        """The address of the service."""
        return self._context.server

    @property
    def namespace(self) -> str:
        """The namespace; empty for the tenant's first."""
        return self.given.namespace or self._context.namespace

    @property
    def tls(self) -> bool:
        """Whether TLS was asked for by itself."""
        return self._context.tls if self.given.tls is None else self.given.tls

    @property
    def _ca_file(self) -> Path | None:
        return self.given.ca_file or self._context.ca_file

    @property
    def secure(self) -> bool:
        """Whether the command uses TLS."""
        return self.tls or self._ca_file is not None

    @property
    def output(self) -> Output:
        """The format of the answer."""
        return self.given.output

    @property
    def structured(self) -> bool:
        """Whether the answer has every field."""
        return self.output in (Output.JSON, Output.YAML)


chosen = Chosen()
_NAMES = {one.name for one in fields(Given)}


def _contexts(incomplete: str) -> list[str]:
    from sandboxctl import completion

    return completion.context_names(incomplete)


def declared(
    context: typer.Context,
    server: Annotated[
        str | None,
        typer.Option(envvar="SANDBOX_SERVER", help=f"HOST:PORT; default: the context's, or {contexts.LOCAL}"),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(envvar="SANDBOX_CLIENT_TOKEN_FILE", help="file with the token, before any other")
    ] = None,
    token: Annotated[
        str, typer.Option(envvar="SANDBOX_TOKEN", help="token; better in the environment or a file", show_default=False)
    ] = "",
    tls: Annotated[bool | None, typer.Option(envvar="SANDBOX_TLS", help="TLS with the system's authorities")] = None,
    ca_file: Annotated[
        Path | None, typer.Option(envvar="SANDBOX_CA_FILE", help="TLS with the authorities of this PEM file")
    ] = None,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", envvar="SANDBOX_NAMESPACE", help="default: the tenant's first")
    ] = "",
    context_name: Annotated[
        str | None,
        typer.Option(
            "--context", envvar="SANDBOX_CONTEXT", help="a service of the config file", autocompletion=_contexts
        ),
    ] = None,
    request_timeout: Annotated[
        float,
        typer.Option(
            envvar="SANDBOX_REQUEST_TIMEOUT",
            parser=_seconds,
            metavar="SECONDS",
            help="for each call with all its tries; not for --wait and watches",
        ),
    ] = REQUEST_TIMEOUT,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="json and yaml have every field; name is namespace/id")
    ] = Output.TABLE,
) -> None:
    """Options that every command has."""
    chosen.begin(Given(**{name: context.params[name] for name in _NAMES}))


def everywhere(command: Any) -> Any:
    """Adds the options of `Given` to every command below `command` and returns `command`.

    There they have neither a default nor an environment variable, so that they change a value only if they are given.
    """
    shared = [copy.copy(option) for option in command.params if option.name in _NAMES]
    for option in shared:
        option.default = None
        option.envvar = None
        option.expose_value = False
        option.show_default = False
        option.callback = _override
        option.rich_help_panel = "Options of every command"
    _below(command, shared)
    return command


def _below(group: Any, shared: list[Any]) -> None:
    for command in getattr(group, "commands", {}).values():
        command.params += shared
        _below(command, shared)


def _override(_context: Any, parameter: Any, value: Any) -> None:
    if value is not None:
        setattr(chosen.given, parameter.name, value)
