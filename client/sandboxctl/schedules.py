"""`sandboxctl schedule`: snapshots that are taken by themselves."""

import re
from collections.abc import Callable
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from sandbox.v1 import schedule_pb2 as pb
from sandbox.v1 import snapshot_pb2
from sandbox_client import words

from sandboxctl import answers, completion, deletion, show, targets
from sandboxctl.options import Output, chosen

app = typer.Typer(no_args_is_help=True, help="Schedules of snapshots. All times are in UTC.")

_COLUMNS: dict[str, Callable[[pb.SnapshotSchedule], answers.Cell]] = {
    "TENANT": lambda one: show.printable(one.tenant),
    "NAMESPACE": lambda one: one.namespace,
    "ID": lambda one: one.schedule_id,
    "OF": lambda one: one.sandbox_id or show.printable(one.label_selector),
    "WHEN": lambda one: one.when or "-",
    "KEEP": lambda one: str(one.keep),
    "BEFORE DELETE": lambda one: "yes" if one.before_delete else "no",
    "CONSISTENCY": lambda one: words.short(snapshot_pb2.Consistency, one.consistency),
    "OUTLIVES": lambda one: "yes" if one.outlives_sandbox else "no",
    "NEXT": lambda one: _time(one.next_time),
    "LAST": lambda one: _time(one.last_time),
    "MISSED": lambda one: str(one.missed),
    "LAST MISSED": lambda one: _missed(one),
    "AGE": lambda one: answers.age(one.create_time),
    "UID": lambda one: one.uid,
}
_NARROW = ("ID", "OF", "WHEN", "KEEP", "BEFORE DELETE", "NEXT", "LAST", "MISSED")
_KEEP = re.compile(r"(.*?)\s+keep\s+(\d{1,6})\s*", re.DOTALL | re.IGNORECASE)

Id = Annotated[
    str, typer.Argument(help="id, or namespace/id", metavar="SCHEDULE_ID", autocompletion=completion.schedules)
]
When = Annotated[
    str,
    typer.Argument(help="such as 'daily 02:00 keep 7', 'hourly :15' or 'weekly sun 02:00', in UTC", metavar="[WHEN]"),
]
Sandbox = Annotated[str, typer.Option("--sandbox", "-s", help="of this sandbox", autocompletion=completion.ids)]
Selector = Annotated[str, typer.Option("--selector", "-l", help="of those with these labels: a=b,c in (d,e),!f")]


@app.command()
def create(
    schedule_id: Id,
    when: When = "",
    sandbox_id: Sandbox = "",
    selector: Selector = "",
    before_delete: Annotated[
        bool, typer.Option(help="also take a snapshot before the disk of a deleted sandbox goes")
    ] = False,
    stopped: Annotated[bool, typer.Option(help="only of sandboxes that are stopped: no file is half written")] = False,
    outlives: Annotated[bool, typer.Option(help="keep the snapshots when their sandbox is deleted")] = False,
) -> None:
    """Have snapshots taken by themselves, of one sandbox or of those with some labels."""
    if bool(sandbox_id) == bool(selector.strip()):
        raise typer.BadParameter("give --sandbox or --selector: one of the two")
    namespace, name = targets.named(schedule_id)
    slots, keep = _parsed(when)
    _shown(
        chosen.client.create_schedule(
            name,
            slots,
            sandbox=sandbox_id or None,
            label_selector=selector or None,
            keep=keep or 0,
            before_delete=before_delete,
            stopped=stopped,
            outlives_sandbox=outlives,
            namespace=namespace,
        )
    )


@app.command()
def update(
    schedule_id: Id,
    when: When = "",
    sandbox_id: Sandbox = "",
    selector: Selector = "",
    keep: Annotated[int | None, typer.Option(help="how many READY snapshots of each sandbox stay")] = None,
    before_delete: Annotated[
        bool | None, typer.Option(help="take a snapshot before the disk of a deleted sandbox goes")
    ] = None,
    stopped: Annotated[bool | None, typer.Option(help="only of sandboxes that are stopped")] = None,
    outlives: Annotated[bool | None, typer.Option(help="keep the snapshots when their sandbox is deleted")] = None,
) -> None:
    """Change what is given of a schedule."""
    if sandbox_id and selector.strip():
        raise typer.BadParameter("give --sandbox or --selector: one of the two")
    namespace, name = targets.named(schedule_id)
    slots, kept = _parsed(when)
    _shown(
        chosen.client.update_schedule(
            name,
            when=slots or None,
            sandbox=sandbox_id or None,
            label_selector=selector or None,
            keep=kept if keep is None else keep,
            before_delete=before_delete,
            stopped=stopped,
            outlives_sandbox=outlives,
            namespace=namespace,
        )
    )


@app.command("list")
def list_(tenant: targets.Tenant = "") -> None:
    """List schedules."""
    found = list(chosen.client.schedules(namespace=chosen.namespace, tenant=tenant))
    if answers.structured({"schedules": found}):
        return
    _rows(found)
    if not found:
        show.err.print("there are no schedules")


@app.command()
def get(schedule_id: Id) -> None:
    """Show a schedule."""
    namespace, name = targets.named(schedule_id)
    _shown(chosen.client.get_schedule(name, namespace=namespace))


@app.command()
def delete(schedule_id: Id, yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False) -> None:
    """Delete a schedule; its snapshots stay. On a terminal it asks first."""
    namespace, name = targets.named(schedule_id)
    if not yes:
        deletion.confirmed([(namespace, name)], "Delete this schedule? its snapshots stay, and no more are taken")
    answer = chosen.client.delete_schedule(name, namespace=namespace)
    if not answers.structured(answer):
        show.err.print(f"{name} is deleted; its snapshots stay")


def _parsed(text: str) -> tuple[str, int | None]:
    """Returns the slots that a text says, and how many snapshots are kept; None if it does not say that."""
    found = _KEEP.fullmatch(text)
    return (text, None) if found is None else (found[1], int(found[2]))


def _time(moment: Timestamp) -> str:
    return moment.ToDatetime().strftime("%Y-%m-%d %H:%M") if moment.seconds else "-"


def _missed(one: pb.SnapshotSchedule) -> str:
    if not one.HasField("last_missed"):
        return "-"
    missed = one.last_missed
    reason = words.short(pb.MissedReason, missed.reason)
    return show.printable(f"{_time(missed.slot)} {missed.sandbox_id} {reason}: {missed.message}")


def _shown(one: pb.SnapshotSchedule) -> None:
    """Prints a schedule; as a table all that there is to say of it."""
    if answers.structured(one):
        return
    if chosen.output is not Output.TABLE:
        _rows([one])
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for heading, cell in _COLUMNS.items():
        table.add_row(heading.lower(), cell(one))
    show.out.print(table)


def _rows(found: list[pb.SnapshotSchedule]) -> None:
    answers.rows(found, _COLUMNS, _NARROW)
