"""`sandboxctl env`: the variables of a sandbox. Their values are never printed."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client.retry import PATIENCE

from sandboxctl import envfile, show
from sandboxctl.options import chosen
from sandboxctl.settling import Id, Patience, Timeout, Wait, settled

app = typer.Typer(no_args_is_help=True, help="Environment variables. Their values are never printed.")

Variables = Annotated[
    list[str] | None, typer.Argument(help="NAME=value, or NAME to take this shell's", show_default=False)
]
File = Annotated[
    Path | None,
    typer.Option(
        help="file of NAME=value lines, with quotes, `export` and # comments as in a shell; - is standard input"
    ),
]


@app.command("set")
def set_(
    sandbox_id: Id,
    values: Variables = None,
    env_file: File = None,
    replace: Annotated[bool, typer.Option(help="remove all others")] = False,
    wait: Wait = False,
    patience: Patience = PATIENCE,
    timeout: Timeout = 600,
) -> None:
    """Set variables; a running sandbox restarts with them."""
    given = read(values or [], env_file)
    if not given and not replace:
        raise typer.BadParameter("give NAME=value or --env-file; --replace alone removes all")
    changed = chosen.client.update_env(sandbox_id, set=given, replace=replace, namespace=chosen.namespace)
    _changed(changed, wait, patience, timeout)


@app.command()
def unset(
    sandbox_id: Id,
    names: Annotated[list[str], typer.Argument(help="the variables' names", show_default=False)],
    wait: Wait = False,
    patience: Patience = PATIENCE,
    timeout: Timeout = 600,
) -> None:
    """Remove variables; a running sandbox restarts without them."""
    _changed(chosen.client.update_env(sandbox_id, unset=names, namespace=chosen.namespace), wait, patience, timeout)


@app.command("list")
def list_(sandbox_id: Id) -> None:
    """Print the names of the variables."""
    names = list(chosen.client.get(sandbox_id, namespace=chosen.namespace).env_names)
    if chosen.json:
        show.as_json(names)
        return
    if not names:
        show.err.print("it has no variables")
    for name in names:
        show.out.print(name)


def read(words: list[str], file: Path | None) -> dict[str, str]:
    """Returns the variables of a file and of the command line, which takes precedence. Raises `typer.BadParameter`."""
    found = {} if file is None else _read(file)
    for word in words:
        if "=" not in word and word not in os.environ:
            raise typer.BadParameter(f"{show.printable(word)!r} is not in this shell's environment: give NAME=value")
        name, value = split(word, "env") if "=" in word else (word, os.environ[word])
        found[name] = value
    for name, value in found.items():
        if not _is_utf8(name + value):
            raise typer.BadParameter(f"{show.printable(name)} is not UTF-8 text")
    return found


def _is_utf8(text: str) -> bool:
    """Whether a text from an argument or the environment is UTF-8. Python keeps other bytes as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(file: Path) -> dict[str, str]:
    data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    try:
        return envfile.parse(data)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--env-file") from None


def split(text: str, option: str) -> tuple[str, str]:
    """Splits NAME=value. Raises `typer.BadParameter`, which names the option `option` and does not contain the text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter("must be NAME=value", param_hint=f"--{option}")
    return name, value


def _changed(sandbox: pb.Sandbox, wait: bool, patience: float, timeout: float) -> None:
    stopped = sandbox.desired_state == pb.DESIRED_STATE_STOPPED
    settled(sandbox, "STOPPED" if stopped else "RUNNING", wait, patience, timeout)
