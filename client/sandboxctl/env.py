"""`sandboxctl env`: the variables of a sandbox. Their values are never printed."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client.retry import PATIENCE

from sandboxctl import answers, completion, envfile, settling, show, targets
from sandboxctl.options import chosen
from sandboxctl.settling import Patience, Timeout, Wait, Waiting
from sandboxctl.targets import Ids, Selector, Targets

app = typer.Typer(no_args_is_help=True, help="Environment variables. Their values are never printed.")

Words = Annotated[
    list[str] | None,
    typer.Argument(
        help="ids joined by commas, then NAME=value, or NAME to take this shell's; with --selector no ids",
        metavar="SANDBOX_ID[,...] [NAME[=value]]...",
        show_default=False,
        autocompletion=completion.first_id,
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Argument(
        help="ids joined by commas, then names; with --selector no ids",
        metavar="SANDBOX_ID[,...] NAME...",
        show_default=False,
        autocompletion=completion.first_id,
    ),
]
File = Annotated[
    Path | None,
    typer.Option(
        help="file of NAME=value lines, with quotes, `export` and # comments as in a shell; - is standard input"
    ),
]


@app.command("set")
def set_(
    words: Words = None,
    selector: Selector = "",
    env_file: File = None,
    replace: Annotated[bool, typer.Option(help="remove all others")] = False,
    wait: Wait = False,
    patience: Patience = PATIENCE,
    timeout: Timeout = 600,
) -> None:
    """Set variables; a running sandbox restarts with them."""
    ids, values = _split(words or [], selector)
    given = read(values, env_file)
    if not given and not replace:
        raise typer.BadParameter("give NAME=value or --env-file; --replace alone removes all")

    def act(namespace: str, sandbox_id: str) -> pb.Sandbox:
        return chosen.client.update_env(sandbox_id, set=given, replace=replace, namespace=namespace)

    settling.done(targets.of(ids, selector), act, Waiting(wait, patience, timeout))


@app.command()
def unset(
    words: Names = None,
    selector: Selector = "",
    wait: Wait = False,
    patience: Patience = PATIENCE,
    timeout: Timeout = 600,
) -> None:
    """Remove variables; a running sandbox restarts without them."""
    ids, names = _split(words or [], selector)
    if not names:
        raise typer.BadParameter("give the names of variables")

    def act(namespace: str, sandbox_id: str) -> pb.Sandbox:
        return chosen.client.update_env(sandbox_id, unset=names, namespace=namespace)

    settling.done(targets.of(ids, selector), act, Waiting(wait, patience, timeout))


@app.command("list")
def list_(sandbox_ids: Ids = None, selector: Selector = "") -> None:
    """Print the names of the variables."""
    meant = targets.of(sandbox_ids, selector)

    def read_one(namespace: str, sandbox_id: str) -> pb.Sandbox:
        return chosen.client.get(sandbox_id, namespace=namespace)

    settling.collected(meant, read_one, lambda found: _printed(meant, found))


def _printed(meant: Targets, found: list[pb.Sandbox]) -> None:
    """Prints the names of the variables; for several sandboxes with the sandbox before each."""
    if meant.single:
        names = list(found[0].env_names)
        if answers.structured(names):
            return
        for name in names:
            show.out.print(name)
        if not names:
            show.err.print("it has no variables")
        return
    if not answers.structured({f"{one.namespace}/{one.sandbox_id}": list(one.env_names) for one in found}):
        for one in found:
            for name in one.env_names:
                show.out.print(f"{one.namespace}/{one.sandbox_id} {name}")


def _split(words: list[str], selector: str) -> tuple[list[str], list[str]]:
    """Returns the ids and the variables of the words. With a selector there are no ids."""
    if selector or not words:
        return [], words
    return [one for one in words[0].split(",") if one], words[1:]


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
