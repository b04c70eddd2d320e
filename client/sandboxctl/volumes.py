"""`sandboxctl volumes` and `delete-volume`: the disks that deleted sandboxes left."""

from collections.abc import Callable
from typing import Annotated

import typer
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import retry

from sandboxctl import answers, completion, deletion, settling, show, targets
from sandboxctl.options import chosen
from sandboxctl.settling import Patience, Timeout, Wait, Waiting

_COLUMNS: dict[str, Callable[[pb.KeptVolume], answers.Cell]] = {
    "TENANT": lambda one: show.printable(one.tenant),
    "NAMESPACE": lambda one: one.namespace,
    "ID": lambda one: one.sandbox_id,
    "PROJECT": lambda one: one.project,
    "SIZE": lambda one: one.size or "-",
    "CLASS": lambda one: one.storage_class or "-",
    "MODE": lambda one: one.access_mode or "-",
    "KEPT": lambda one: answers.age(one.keep_time),
    "VOLUME": lambda one: one.name or "-",
    "UID": lambda one: one.uid,
    "MESSAGE": lambda one: show.printable(one.message),
}
_NARROW = ("ID", "PROJECT", "SIZE", "CLASS", "KEPT", "VOLUME")


def volumes(
    project: Annotated[str, typer.Option("--project", "-p", help="those of this project's sandboxes")] = "",
    selector: Annotated[str, typer.Option("--selector", "-l", help="by their labels: a=b,c in (d,e),!f")] = "",
    tenant: targets.Tenant = "",
) -> None:
    """List the disks that deleted sandboxes left. `create --id ID --adopt-volume` takes one up."""
    matching = chosen.client.volumes(
        namespace=chosen.namespace, project=project, label_selector=selector, tenant=tenant
    )
    found = list(matching)
    if answers.structured({"volumes": found}):
        return
    answers.rows(found, _COLUMNS, _NARROW)
    if not found:
        filtered = project or selector or tenant or chosen.namespace
        show.err.print("no kept disk matches" if filtered else "no disk was kept")


def delete_volume(
    sandbox_ids: Annotated[
        list[str] | None,
        typer.Argument(
            help="ids of the sandboxes whose disks they were, or namespace/id",
            show_default=False,
            metavar="[SANDBOX_ID]...",
            autocompletion=completion.volumes,
        ),
    ] = None,
    selector: Annotated[
        str,
        typer.Option(
            "--selector", "-l", help="instead of ids, what `volumes` shows with this selector: a=b,c in (d,e),!f"
        ),
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    wait: Wait = False,
    patience: Patience = retry.PATIENCE,
    timeout: Timeout = 120,
) -> None:
    """Delete the disks that deleted sandboxes left. It deletes no sandbox.

    On a terminal it asks first. In a script, where nobody can answer, it does not ask.
    """
    meant = targets.of_volumes(sandbox_ids, selector, "nothing was deleted")
    if not yes:
        question = f"Delete the disks of these {len(meant.names)} deleted sandboxes? all that is on them goes"
        if len(meant.names) == 1:
            question = "Delete the disk of this deleted sandbox? all that is on it goes"
        deletion.confirmed(meant.names, question)
    settling.done(meant, _deleted, Waiting(wait, patience, timeout, "TERMINATED"))


def _deleted(namespace: str, sandbox_id: str) -> pb.Sandbox:
    return chosen.client.delete_volume(sandbox_id, namespace=namespace)
