"""The answer of a command in the chosen format: tables for people, JSON, YAML and names for programs."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import yaml
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import schedule_pb2, snapshot_pb2
from sandbox_client import words
from sandbox_client.watch import Kind

from sandboxctl import details, show
from sandboxctl.options import Output, chosen

Cell = str | Text
_COLUMNS: dict[str, Callable[[pb.Sandbox], Cell]] = {
    "TENANT": lambda one: show.printable(one.status.tenant or "-"),
    "NAMESPACE": lambda one: one.namespace,
    "ID": lambda one: one.sandbox_id,
    "PROJECT": lambda one: one.status.project,
    "PHASE": lambda one: show.coloured(show.phase(one.status)),
    "REASON": lambda one: show.reason(one.status.reason),
    "REMEDY": lambda one: words.short(pb.Remedy, one.status.remedy) if one.status.remedy else "-",
    "GENERATION": lambda one: f"{one.status.observed_generation}/{one.status.generation}",
    "RESTARTS": lambda one: str(one.status.restart_count),
    "AGE": lambda one: age(one.create_time),
    "DISK": lambda one: one.status.volume.size or "-",
    "URL": lambda one: "-" if details.gone(one.status) else one.public_url or one.status.public_url,
    "TERMINAL": lambda one: "-" if details.gone(one.status) else one.status.ttyd_url or "-",
    "MESSAGE": lambda one: show.printable(one.status.message),
}
_NARROW = ("ID", "PROJECT", "PHASE", "REASON", "AGE", "URL")
_Changed = TypeVar("_Changed")
_Row = TypeVar("_Row", bound=pb.Sandbox | pb.KeptVolume | snapshot_pb2.Snapshot | schedule_pb2.SnapshotSchedule)


def structured(value: Any) -> bool:
    """Prints a value, which may contain messages, as JSON or YAML. Returns False for the other formats."""
    if chosen.output is Output.JSON:
        show.out.print_json(json.dumps(value, default=plain), ensure_ascii=not _utf8())
    elif chosen.output is Output.YAML:
        show.out.out(_yaml(value), end="", highlight=False)
    else:
        return False
    return True


def event(value: Any) -> bool:
    """Prints a value as one line of JSON or one document of YAML. Returns False for the other formats."""
    if chosen.output is Output.JSON:
        show.out.out(json.dumps(value, default=plain), highlight=False)
    elif chosen.output is Output.YAML:
        show.out.out(f"---\n{_yaml(value)}", end="", highlight=False)
    else:
        return False
    return True


def changes(events: Iterable[tuple[Kind, int, _Changed | None]], shown: Callable[[_Changed, int], None]) -> None:
    """Prints the events of a watch, each its kind, its sequence and what has changed; as a table by `shown`."""
    for kind, sequence, changed in events:
        if changed is not None and not event(changed):
            shown(changed, sequence)
        elif kind is Kind.RESYNC:
            show.err.print("the watch cannot go on from there: what follows is the present state again")


def sandbox(one: pb.Sandbox) -> None:
    """Prints a sandbox; as a table its status."""
    if structured(one):
        return
    if chosen.output is Output.TABLE:
        show.out.print(details.status(one.status))
    else:
        _rows([one])


def sandboxes(found: Sequence[pb.Sandbox], none: str) -> None:
    """Prints sandboxes, as a table with their namespaces if there are several.

    Without sandboxes the table has no rows, and `none` is printed on standard error.
    """
    if structured({"sandboxes": [*found]}):
        return
    _rows(found)
    if not found:
        show.err.print(none)


def statuses(found: Sequence[pb.SandboxStatus], single: bool) -> None:
    """Prints one status, or several."""
    if structured(found[0] if single else {"statuses": [*found]}):
        return
    if chosen.output is not Output.TABLE:
        _rows([pb.Sandbox(sandbox_id=one.sandbox_id, namespace=one.namespace, status=one) for one in found])
        return
    for number, one in enumerate(found):
        if number:
            show.out.print()
        show.out.print(details.status(one))


def plain(message: Message) -> dict[str, Any]:
    """Returns a message as JSON values, with the field names of the contract. Empty fields are included."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def age(since: Timestamp) -> str:
    """Returns the time since then in its largest unit; `-` for no time."""
    if not since.seconds:
        return "-"
    seconds = int((datetime.now(UTC) - since.ToDatetime(UTC)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(seconds, 0)}s"


def _rows(found: Sequence[pb.Sandbox]) -> None:
    """Prints a line for each sandbox."""
    rows(found, _COLUMNS, _NARROW)


def rows(found: Sequence[_Row], columns: Mapping[str, Callable[[_Row], Cell]], narrow_columns: Sequence[str]) -> None:
    """Prints a line for each entry of a list: its name, all `columns`, or the narrow ones."""
    if chosen.output is Output.NAME:
        for one in found:
            show.out.print(f"{one.namespace}/{_name(one)}")
        return
    several = len({one.namespace for one in found}) > 1
    narrow = (*["NAMESPACE"] * several, *narrow_columns)
    headings = tuple(columns) if chosen.output is Output.WIDE else narrow
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for one in found:
        table.add_row(*(columns[heading](one) for heading in headings))
    show.out.print(table)


def _name(one: pb.Sandbox | pb.KeptVolume | snapshot_pb2.Snapshot | schedule_pb2.SnapshotSchedule) -> str:
    if isinstance(one, schedule_pb2.SnapshotSchedule):
        return one.schedule_id
    return one.snapshot_id if isinstance(one, snapshot_pb2.Snapshot) else one.sandbox_id


def _yaml(value: Any) -> str:
    whole = json.loads(json.dumps(value, default=plain))
    return str(yaml.safe_dump(whole, sort_keys=False, allow_unicode=_utf8(), width=1000))


def _utf8() -> bool:
    return show.out.encoding.startswith("utf")
