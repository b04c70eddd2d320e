"""`sandboxctl delete`: one sandbox or several, after a question where somebody can answer it."""

import sys
from typing import Annotated

import typer
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import retry

from sandboxctl import settling, show, targets
from sandboxctl.options import chosen
from sandboxctl.settling import Patience, Timeout, Wait, Waiting
from sandboxctl.targets import Ids, Selector


def delete(
    sandbox_ids: Ids = None,
    selector: Selector = "",
    keep_volume: Annotated[bool, typer.Option(help="keep the disks for later sandboxes of these ids")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    wait: Wait = False,
    patience: Patience = retry.PATIENCE,
    timeout: Timeout = 120,
) -> None:
    """Delete sandboxes, and their disks unless those are kept; of a deleted one, the disk that was kept.

    On a terminal it asks first. In a script, where nobody can answer, it does not ask.
    """
    meant = targets.of(sandbox_ids, selector, "nothing was deleted")
    if not yes:
        _ask(meant.names, keep_volume)
    settling.done(
        meant,
        lambda namespace, sandbox_id: _deleted(namespace, sandbox_id, keep_volume),
        Waiting(wait, patience, timeout, "TERMINATED"),
    )


def _ask(names: list[tuple[str, str]], keep_volume: bool) -> None:
    disks = "each disk is kept" if keep_volume else "each disk goes too, with all that is on it"
    many = "this sandbox" if len(names) == 1 else f"these {len(names)} sandboxes"
    confirmed(names, f"Delete {many}? {disks}")


def confirmed(names: list[tuple[str, str]], question: str) -> None:
    """Asks on standard error, where standard output is for programs. Ends the command at every answer but yes.

    Asks nothing if there is nothing to delete, or nobody at a terminal.
    """
    if not names or not sys.stdin.isatty():
        return
    for namespace, sandbox_id in names:
        show.err.print(show.printable(f"  {namespace}/{sandbox_id}" if namespace else f"  {sandbox_id}"))
    show.err.print(f"{question} [y/N] ", end="")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        show.err.print("nothing was deleted")
        raise typer.Exit(1)


def _deleted(namespace: str, sandbox_id: str, keep_volume: bool) -> pb.Sandbox:
    return chosen.client.delete(sandbox_id, namespace=namespace, keep_volume=keep_volume)
