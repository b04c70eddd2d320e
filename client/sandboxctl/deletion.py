"""`sandboxctl delete`: one sandbox or several, after a question where somebody can answer it."""

import functools
import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import errors, retry

from sandboxctl import failures, show
from sandboxctl.options import chosen
from sandboxctl.settling import Patience, Timeout, Wait, settled, waited

_EVERYWHERE = (errors.Unavailable, errors.Unauthenticated)
"""What would be the answer for each of the other sandboxes too."""


def delete(
    sandbox_ids: Annotated[list[str] | None, typer.Argument(help="the sandboxes' ids", show_default=False)] = None,
    selector: Annotated[
        str, typer.Option("--selector", "-l", help="instead of ids, what `list` shows with this selector")
    ] = "",
    keep_volume: Annotated[bool, typer.Option(help="keep the disks for later sandboxes of these ids")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    wait: Wait = False,
    patience: Patience = retry.PATIENCE,
    timeout: Timeout = 120,
) -> None:
    """Delete sandboxes, and their disks unless those are kept; of a deleted one, the disk that was kept.

    On a terminal it asks first. Elsewhere nobody can answer, so that it does not.
    """
    if bool(sandbox_ids) == bool(selector.strip()):
        raise typer.BadParameter("give the ids of sandboxes or --selector: one of the two")
    names = [(chosen.namespace, one) for one in dict.fromkeys(sandbox_ids or [])]
    if selector:
        matching = chosen.client.list(namespace=chosen.namespace, label_selector=selector, basic=True)
        names = [(one.namespace, one.sandbox_id) for one in matching]
    if names and not yes and sys.stdin.isatty():
        _ask(names, keep_volume)
    if len(names) == 1 and not selector:
        settled(_deleted(*names[0], keep_volume), "TERMINATED", wait, patience, timeout)
    else:
        none = "no sandbox matches" if selector else "nothing was deleted"
        _several(names, keep_volume, timeout if wait else None, patience, none)


def _ask(names: list[tuple[str, str]], keep_volume: bool) -> None:
    """Asks on standard error, where standard output is for programs. Ends the command at every answer but yes."""
    for namespace, sandbox_id in names:
        show.err.print(show.printable(f"  {namespace}/{sandbox_id}" if namespace else f"  {sandbox_id}"))
    disks = "each disk is kept" if keep_volume else "each disk goes too, with all that is on it"
    many = "this sandbox" if len(names) == 1 else f"these {len(names)} sandboxes"
    show.err.print(f"Delete {many}? {disks} [y/N] ", end="")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        show.err.print("nothing was deleted")
        raise typer.Exit(1)


def _several(names: list[tuple[str, str]], keep_volume: bool, within: float | None, patience: float, none: str) -> None:
    """Deletes each, whatever becomes of the others, and prints them; `none` where there are none.

    Ends the command with the exit code of the last failure.
    """
    failed: list[tuple[str, errors.ServiceError | errors.SandboxFailed]] = []
    found: list[pb.Sandbox] = []

    def tried(sandbox_id: str, work: Callable[[], pb.Sandbox]) -> list[pb.Sandbox]:
        try:
            return [work()]
        except _EVERYWHERE:
            raise
        except (errors.ServiceError, errors.SandboxFailed) as failure:
            failed.append((sandbox_id, failure))
            return []

    try:
        for name in names:
            found += tried(name[1], functools.partial(_deleted, *name, keep_volume))
        end = time.monotonic() + (within or 0)
        for number, one in enumerate(found if within is not None else ()):
            left = max(0.0, end - time.monotonic())
            wait = functools.partial(waited, one, "TERMINATED", patience, left, show.progress(one.sandbox_id))
            found[number : number + 1] = tried(one.sandbox_id, wait) or [one]
    except BaseException:
        # The service went away, or Ctrl-C: what was deleted so far stays so. Whether the last one was is not known.
        if found:
            show.sandboxes(found, none, chosen.json)
        _explained(failed)
        raise
    show.sandboxes(found, none, chosen.json)
    if failed:
        raise typer.Exit(_explained(failed))


def _explained(failed: list[tuple[str, errors.ServiceError | errors.SandboxFailed]]) -> int:
    """Says what went wrong with each sandbox. Returns the exit code of the last failure."""
    codes = [failures.exit_code(failures.explained(failure, sandbox_id)) for sandbox_id, failure in failed]
    return codes[-1] if codes else 0


def _deleted(namespace: str, sandbox_id: str, keep_volume: bool) -> pb.Sandbox:
    return chosen.client.delete(sandbox_id, namespace=namespace, keep_volume=keep_volume)
