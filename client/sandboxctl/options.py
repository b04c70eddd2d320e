"""The options that every command has: given before the command or after it, the later one counts."""

import copy
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from sandbox_client import calls
from sandbox_client.sync import Client

from sandboxctl import reach, show

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds for a call: a service that restarts is back before; where none runs, a person wants to hear it soon."""


class Output(StrEnum):
    """How answers are printed."""

    TABLE = "table"
    JSON = "json"


class _Client(Client):
    """Says after a while that nothing answers, and goes on trying."""

    def __init__(self, server: str, **options: Any) -> None:
        super().__init__(server, timeout=PATIENCE, **options)
        self._server = server

    def run(self, call: calls.Call[T]) -> T:
        with reach.patiently(self._server, lambda: show.unanswered(self._server, PATIENCE)):
            return super().run(call)


def _token(file: Path) -> str:
    """The token in a file. Raises OSError, and ValueError where there is none."""
    try:
        token = file.read_text("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{file} has no token: it is not text") from None
    if not token:
        raise ValueError(f"{file} has no token: it is empty")
    return token


@dataclass
class Chosen:
    """What these options say. The client is made when a command first uses it, after all of them are read."""

    server: str = ""
    token_file: Path | None = None
    token: str = ""
    tls: bool = False
    ca_file: Path | None = None
    namespace: str = ""
    output: Output = Output.TABLE

    @cached_property
    def client(self) -> Client:
        """Raises OSError and ValueError for an address, a token or an authority that cannot be used."""
        token = _token(self.token_file) if self.token_file else self.token
        return _Client(self.server, token=token, tls=self.tls, ca_file=self.ca_file)

    @property
    def secure(self) -> bool:
        """Whether the service is spoken to by TLS."""
        return self.tls or self.ca_file is not None

    @property
    def json(self) -> bool:
        """Whether a program reads the answer."""
        return self.output is Output.JSON


chosen = Chosen()
_NAMES = {one.name for one in fields(Chosen)}


def declared(
    context: typer.Context,
    server: Annotated[str, typer.Option(envvar="SANDBOX_SERVER", help="HOST:PORT")] = "127.0.0.1:50051",
    token_file: Annotated[
        Path | None, typer.Option(envvar="SANDBOX_CLIENT_TOKEN_FILE", help="file with the token, before any other")
    ] = None,
    token: Annotated[
        str, typer.Option(envvar="SANDBOX_TOKEN", help="token; better in the environment or a file", show_default=False)
    ] = "",
    tls: Annotated[bool, typer.Option(envvar="SANDBOX_TLS", help="TLS with the system's authorities")] = False,
    ca_file: Annotated[
        Path | None, typer.Option(envvar="SANDBOX_CA_FILE", help="TLS with the authorities of this PEM file")
    ] = None,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", envvar="SANDBOX_NAMESPACE", help="default: the tenant's first")
    ] = "",
    output: Annotated[Output, typer.Option("--output", "-o", help="table or json")] = Output.TABLE,
) -> None:
    """Options that every command has."""
    for name in _NAMES:
        setattr(chosen, name, context.params[name])


def everywhere(command: Any) -> Any:
    """`command` with its own options of `Chosen` on every command below it too.

    There they have neither default nor environment variable: what is not given leaves the former choice.
    """
    shared = [copy.copy(one) for one in command.params if one.name in _NAMES]
    for one in shared:
        one.default = one.envvar = None
        one.expose_value = one.show_default = False
        one.callback = _override
        one.rich_help_panel = "Options of every command"
    _below(command, shared)
    return command


def _below(group: Any, shared: list[Any]) -> None:
    for command in getattr(group, "commands", {}).values():
        command.params += shared
        _below(command, shared)


def _override(_context: Any, parameter: Any, value: Any) -> None:
    if value is not None:
        setattr(chosen, parameter.name, value)
