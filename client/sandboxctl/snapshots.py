"""`sandboxctl snapshot` and `clone`: snapshots of disks, and sandboxes that are made from a disk."""

from collections.abc import Callable
from typing import Annotated

import typer
from rich.table import Table
from sandbox.v1 import snapshot_pb2
from sandbox_client import snapshots, words
from sandbox_client.retry import PATIENCE

from sandboxctl import answers, completion, deletion, settling, show, targets
from sandboxctl import env as variables
from sandboxctl.options import Output, chosen
from sandboxctl.settling import Patience, Timeout, Wait, Waiting

app = typer.Typer(no_args_is_help=True, help="Snapshots of the disks of sandboxes.")

_COLUMNS: dict[str, Callable[[snapshot_pb2.Snapshot], answers.Cell]] = {
    "TENANT": lambda one: show.printable(one.tenant),
    "NAMESPACE": lambda one: one.namespace,
    "ID": lambda one: one.snapshot_id,
    "SANDBOX": lambda one: one.sandbox_id,
    "PROJECT": lambda one: one.project,
    "STATE": lambda one: words.short(snapshot_pb2.SnapshotState, one.state),
    "REASON": lambda one: words.short(snapshot_pb2.SnapshotReason, one.reason),
    "CONSISTENCY": lambda one: words.short(snapshot_pb2.Consistency, one.consistency),
    "SIZE": lambda one: one.size or "-",
    "AGE": lambda one: answers.age(one.create_time),
    "VERIFIED": lambda one: (
        words.short(snapshot_pb2.VerificationState, one.verification.state).lower()
        if one.HasField("verification")
        else "-"
    ),
    "OUTLIVES": lambda one: "yes" if one.outlives_sandbox else "no",
    "SCHEDULE": lambda one: one.schedule_id or "-",
    "UID": lambda one: one.uid,
    "MESSAGE": lambda one: show.printable(one.message),
}
_NARROW = ("ID", "SANDBOX", "STATE", "REASON", "SIZE", "AGE")

Id = Annotated[
    str, typer.Argument(help="id, or namespace/id", metavar="SNAPSHOT_ID", autocompletion=completion.snapshots)
]


@app.command()
def create(
    sandbox_id: targets.Id,
    snapshot_id: Annotated[str, typer.Option("--id", help="default: made from the sandbox's")] = "",
    stopped: Annotated[bool, typer.Option(help="only of a sandbox that is stopped: no file is half written")] = False,
    outlives: Annotated[bool, typer.Option(help="keep it when its sandbox is deleted")] = False,
    label: Annotated[list[str] | None, typer.Option("--label", "-l", help="key=value")] = None,
    wait: Wait = False,
    timeout: Timeout = 600,
) -> None:
    """Take a snapshot of the disk of a sandbox."""
    namespace, name = targets.named(sandbox_id)
    made = chosen.client.create_snapshot(
        name,
        namespace=namespace,
        snapshot_id=snapshot_id,
        stopped=stopped,
        outlives_sandbox=outlives,
        labels=dict(variables.split(one, "label") for one in label or []),
    )
    _shown(chosen.client.wait_for_snapshot(made, timeout=timeout) if wait else made)


@app.command("list")
def list_(
    sandbox_id: Annotated[
        str,
        typer.Option("--sandbox", "-s", help="those of this sandbox, or namespace/id", autocompletion=completion.ids),
    ] = "",
    project: Annotated[str, typer.Option("--project", "-p", help="those of this project's sandboxes")] = "",
    selector: Annotated[str, typer.Option("--selector", "-l", help="by their own labels: a=b,c in (d,e),!f")] = "",
    state: Annotated[list[str] | None, typer.Option(help="those in this state; may be repeated")] = None,
    schedule: Annotated[
        str, typer.Option(help="those that this schedule has taken", autocompletion=completion.schedules)
    ] = "",
    tenant: targets.Tenant = "",
) -> None:
    """List snapshots."""
    try:
        states = [snapshots.state(one) for one in state or []]
    except ValueError:
        raise typer.BadParameter("must be a state such as READY", param_hint="--state") from None
    namespace, name = targets.named(sandbox_id)
    matching = chosen.client.snapshots(
        name,
        namespace=namespace,
        project=project,
        label_selector=selector,
        states=states,
        schedule_id=schedule,
        tenant=tenant,
    )
    found = list(matching)
    if answers.structured({"snapshots": found}):
        return
    _rows(found)
    if not found:
        filtered = sandbox_id or project or selector or states or schedule or tenant or chosen.namespace
        show.err.print("no snapshot matches" if filtered else "there are no snapshots")


@app.command()
def watch(
    snapshot_id: Annotated[
        str,
        typer.Argument(help="id, or namespace/id; none: all", show_default=False, autocompletion=completion.snapshots),
    ] = "",
    sandbox_id: Annotated[
        str,
        typer.Option("--sandbox", "-s", help="those of this sandbox, or namespace/id", autocompletion=completion.ids),
    ] = "",
    selector: Annotated[str, typer.Option("--selector", "-l", help="by their own labels: a=b,c in (d,e),!f")] = "",
    after: Annotated[int | None, typer.Option(help="resume after this sequence")] = None,
    tenant: targets.Tenant = "",
) -> None:
    """Show changes of snapshots as they happen, until Ctrl-C, or the end of the one snapshot."""
    namespace, name = targets.named(snapshot_id or sandbox_id)
    events = chosen.client.watch_snapshots(
        name if snapshot_id else "",
        namespace=namespace,
        sandbox_id=targets.named(sandbox_id)[1],
        label_selector=selector,
        after_sequence=after,
        tenant=tenant,
        lost=show.lost,
        back=show.back,
    )
    answers.changes(((event.kind, event.sequence, event.snapshot) for event in events), show.snapshot_change)


@app.command()
def get(snapshot_id: Id) -> None:
    """Show a snapshot."""
    namespace, name = targets.named(snapshot_id)
    _shown(chosen.client.get_snapshot(name, namespace=namespace))


@app.command()
def verify(snapshot_id: Id, wait: Wait = False, timeout: Timeout = 4 * 3600) -> None:
    """Restore a snapshot into a scratch disk, and count and hash what is on it."""
    namespace, name = targets.named(snapshot_id)
    begun = chosen.client.verify_snapshot(name, namespace=namespace)
    _shown(chosen.client.wait_for_verification(begun, timeout=timeout) if wait else begun)


@app.command()
def delete(
    snapshot_id: Id,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    wait: Wait = False,
    timeout: Timeout = 120,
) -> None:
    """Delete a snapshot. On a terminal it asks first."""
    namespace, name = targets.named(snapshot_id)
    if not yes:
        deletion.confirmed([(namespace, name)], "Delete this snapshot? all that is in it goes")
    gone = chosen.client.delete_snapshot(name, namespace=namespace)
    _shown(chosen.client.wait_for_snapshot(gone, "DELETED", timeout=timeout) if wait else gone)


def clone(
    sandbox_id: targets.Id,
    clone_id: Annotated[str, typer.Option("--id", help="default: made from the project")] = "",
    project: Annotated[str, typer.Option("--project", "-p", help="default: that of the source")] = "",
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", help="NAME=value, or NAME to take this shell's")
    ] = None,
    unset: Annotated[list[str] | None, typer.Option("--unset", "-u", help="a variable that it does not have")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", help="key=value; default: those of the source")
    ] = None,
    wait: Wait = False,
    patience: Patience = PATIENCE,
    timeout: Timeout = 600,
) -> None:
    """Create a sandbox with a copy of the disk of another, and with its spec and environment."""
    namespace, name = targets.named(sandbox_id)
    made = chosen.client.clone(
        name,
        namespace=namespace,
        clone_id=clone_id,
        project=project,
        set=variables.read(env or [], None),
        unset=unset or [],
        labels=dict(variables.split(one, "label") for one in label or []),
    )
    settling.settled(made, Waiting(wait, patience, timeout, "RUNNING"))


def _shown(one: snapshot_pb2.Snapshot) -> None:
    """Prints a snapshot; as a table all that there is to say of it."""
    if answers.structured(one):
        return
    if chosen.output is not Output.TABLE:
        _rows([one])
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for heading, cell in _COLUMNS.items():
        table.add_row(heading.lower(), cell(one))
    if one.HasField("verification"):
        for heading, text in _verification(one.verification).items():
            table.add_row(heading, text)
    show.out.print(table)


def _verification(last: snapshot_pb2.Verification) -> dict[str, str]:
    """Returns what there is to say of a verification besides its state."""
    said = {"verification": f"{words.short(snapshot_pb2.SnapshotReason, last.reason)}: {show.printable(last.message)}"}
    if last.sha256:
        said["contents"] = f"{last.files} files, {last.folders} folders, {last.links} links, {last.bytes} bytes"
        said["sha256"] = last.sha256
    return said


def _rows(found: list[snapshot_pb2.Snapshot]) -> None:
    answers.rows(found, _COLUMNS, _NARROW)
