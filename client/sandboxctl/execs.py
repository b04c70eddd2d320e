"""The commands about commands in sandboxes: `exec`, `execs`, `attach` and `signal`."""

import os
from typing import Annotated

import typer
from rich.table import Table
from sandbox.v1 import access_pb2 as pb
from sandbox_client import words

from sandboxctl import answers, completion, session, show, targets, terminal
from sandboxctl import env as variables
from sandboxctl.options import Output, chosen
from sandboxctl.targets import Id

ExecId = Annotated[
    str, typer.Argument(help="as `execs` shows it", metavar="EXEC_ID", autocompletion=completion.exec_ids)
]
_SHELL = "if command -v bash >/dev/null; then exec bash -l; fi; exec sh -l"
Stdin = Annotated[bool, typer.Option("--stdin", "-i", help="pass standard input on although it is a terminal")]


def exec_(
    sandbox_id: Id,
    command: Annotated[list[str], typer.Argument(help="the program and its arguments", metavar="-- COMMAND...")],
    stdin: Stdin = False,
    tty: Annotated[
        bool, typer.Option("--tty", "-t", help="run it on a terminal of the size of this one, and pass all keys on")
    ] = False,
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", help="NAME=value, or NAME to take this shell's")
    ] = None,
    cwd: Annotated[str, typer.Option(help="working directory; default: the sandbox's")] = "",
    time_limit: Annotated[int, typer.Option(help="seconds after which the command is ended; 0: none")] = 0,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="print the id of the exec and leave it")] = False,
) -> None:
    """Run a command in a sandbox, and exit with its code.

    Standard input is passed on unless it is a terminal. The first Ctrl-C is for the command, the second leaves it. With -t,
    Enter ~ . leaves it.
    """
    namespace, name = targets.named(sandbox_id)
    given = variables.read(env or [], None)
    passed = not detach and (stdin or tty or not os.isatty(0))
    size = None
    if tty:
        size = _size()
        given = {"TERM": os.environ.get("TERM", "xterm"), **given}
    started = chosen.client.exec(
        name, command, env=given, cwd=cwd, stdin=passed, tty=size, time_limit=time_limit, namespace=namespace
    )
    if detach:
        if not answers.structured(started.get()):
            show.out.print(started.id)
        return
    raise typer.Exit(session.follow(started, sandbox_id, passed, tty))


def _size() -> tuple[int, int]:
    """Returns the size of the terminal. Raises `typer.BadParameter` if there is none."""
    size = terminal.size()
    if size is None:
        raise typer.BadParameter("standard input and output are no terminal")
    return size


def shell(sandbox_id: Id) -> None:
    """Open a shell in a sandbox: bash if it has that, else sh. Enter ~ . leaves it."""
    exec_(sandbox_id, ["/bin/sh", "-c", _SHELL], tty=True)


def execs(sandbox_id: Id) -> None:
    """List the commands that run in a sandbox, and those that have ended and are remembered."""
    namespace, name = targets.named(sandbox_id)
    found = chosen.client.execs(name, namespace=namespace)
    if answers.structured({"execs": [*found]}):
        return
    if chosen.output is Output.NAME:
        for one in found:
            show.out.print(one.exec_id)
        return
    table = Table("EXEC_ID", "STATE", "CODE", "REASON", box=None, pad_edge=False)
    for one in found:
        ended = one.HasField("exited")
        code = str(one.exited.code) if one.exited.HasField("code") else "-"
        reason = words.short(pb.ExecExitReason, one.exited.reason) if ended else "-"
        table.add_row(one.exec_id, words.short(pb.ExecState, one.state), code, reason)
    show.out.print(table)


def attach(sandbox_id: Id, exec_id: ExecId, stdin: Stdin = False) -> None:
    """Show the output of a command from its beginning, and go on with it as `exec` does."""
    namespace, name = targets.named(sandbox_id)
    raise typer.Exit(session.follow(chosen.client.attach(name, exec_id, namespace=namespace), sandbox_id, stdin))


def signal(
    sandbox_id: Id, exec_id: ExecId, name: Annotated[str, typer.Argument(help="such as INT, TERM or KILL")] = "TERM"
) -> None:
    """Send a signal to a command."""
    namespace, sandbox_name = targets.named(sandbox_id)
    found = chosen.client.attach(sandbox_name, exec_id, namespace=namespace)
    found.signal(name.upper().removeprefix("SIG"))
