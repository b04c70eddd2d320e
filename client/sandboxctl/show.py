"""What `sandboxctl` prints: tables for people, JSON for programs."""

import json
import os
import sys
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import errors, words

# So wide that a table never cuts an id or a URL, which people copy and programs read. The terminal wraps the lines.
out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=1000)
err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

_CUT = "..."
_COLOURS = {"RUNNING": "green", "STOPPED": "blue", "TERMINATED": "dim", "ERROR": "red"}


def phase(status: pb.SandboxStatus) -> str:
    """Returns the phase of a status without the prefix PHASE_."""
    return words.short(pb.Phase, status.phase)


def reason(number: "pb.Reason.ValueType") -> str:
    """Returns a reason without the prefix REASON_."""
    return words.short(pb.Reason, number)


def printable(text: str) -> str:
    """Replaces control characters and line ends by spaces, so that a text cannot control the terminal."""
    return "".join(one if one.isprintable() else " " for one in text)


def failure(kind: str, text: str) -> None:
    """Prints on standard error what went wrong."""
    err.print(Text.assemble((f"{kind}:", "red"), f" {printable(text)}"))


def _step(status: pb.SandboxStatus) -> Text:
    """Returns phase, reason and message as a line of progress."""
    name = phase(status)
    return Text.assemble(
        (f"{name:<12}", _COLOURS.get(name, "yellow")), f"{reason(status.reason):<20} {printable(status.message)}"
    )


def progress(name: str = "") -> Callable[[pb.SandboxStatus], None]:
    """Returns a function that prints statuses on standard error, each on a line that begins with `name`.

    A status that would print the same line as the one before is left out.
    """
    last = ""
    before = f"{printable(name)} " if name else ""

    def report(status: pb.SandboxStatus) -> None:
        nonlocal last
        step = _step(status)
        if step.plain != last:
            last = step.plain
            err.print(Text.assemble(before, step))

    return report


def lost(_error: errors.ServiceError) -> None:
    """Prints on standard error that the service is not reached and that the command goes on."""
    err.print(
        "the service is not reached: trying again; if it does not come back, see whether it runs (Ctrl-C ends this)"
    )


def unanswered(server: str, patience: float) -> None:
    """Prints on standard error that nothing answers yet and that the command goes on for `patience` seconds in all."""
    err.print(f"nothing answers at {printable(server)} yet: trying for {patience:.0f} s in all (Ctrl-C ends this)")


def back() -> None:
    """Prints on standard error, after `lost`, that the service is reached again."""
    err.print("the service is back")


def change(status: pb.SandboxStatus, sequence: int) -> None:
    """Prints an event of a watch on one line, which is cut at its end to the width of a terminal."""
    name = phase(status)
    line = Text.assemble(
        f"{sequence:>4} {_clock(status.transition_time)} ",
        (f"{name:<11}", _COLOURS.get(name, "yellow")),
        f" {status.namespace}/{status.sandbox_id}",
    )
    width = _width()
    # If hardly anything fits after the name, there is no room for the mark of a cut.
    left = width - line.cell_len
    cut = "" if width and 0 <= left <= len(_CUT) else _CUT
    line.append(f" {reason(status.reason)}: {printable(status.message)}")
    if width and line.cell_len > width:
        line.truncate(max(0, width - len(cut)))
        line.append(cut)
    out.print(line)


def _width() -> int:
    """Returns the columns of COLUMNS, or else of the terminal; 0 if neither is there, for no limit."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal():
        return int(columns)
    return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else 0


def sandboxes(found: Collection[pb.Sandbox], none: str, json_output: bool) -> None:
    """Prints sandboxes as a table, with their namespaces if there are several, or as JSON.

    Without sandboxes the table has no rows, and `none` is printed on standard error.
    """
    if json_output:
        as_json({"sandboxes": [*found]})
        return
    several = len({one.namespace for one in found}) > 1
    table = Table(box=None, pad_edge=False)
    for heading in (*["NAMESPACE"] * several, "ID", "PROJECT", "PHASE", "REASON", "AGE", "URL"):
        table.add_column(heading, no_wrap=True)
    for one in found:
        name = phase(one.status)
        table.add_row(
            *[one.namespace] * several,
            one.sandbox_id,
            one.status.project,
            Text(name, _COLOURS.get(name, "yellow")),
            reason(one.status.reason),
            _age(one.create_time),
            "-" if _gone(one.status) else one.public_url,
        )
    out.print(table)
    if not found:
        err.print(none)


def status(one: pb.SandboxStatus) -> None:
    """Prints all of a status."""
    table = Table(box=None, show_header=False, pad_edge=False)
    name = phase(one)
    stale = " (stale: the service has lost sight of its engine)" if one.stale else ""
    rows: list[tuple[str, str | Text]] = [
        ("id", one.sandbox_id),
        ("namespace", one.namespace),
        ("project", one.project),
        ("phase", Text(name + stale, _COLOURS.get(name, "yellow"))),
        ("reason", f"{reason(one.reason)}: {printable(one.message)}"),
        *([("remedy", words.short(pb.Remedy, one.remedy))] if one.remedy else []),
        ("since", one.transition_time.ToDatetime(UTC).isoformat(timespec="seconds")),
        ("generation", f"{one.generation} (reached: {one.observed_generation})"),
        ("restarts", str(one.restart_count)),
    ]
    if one.HasField("last_exit"):
        rows.append(("last exit", f"{one.last_exit.code} ({printable(one.last_exit.reason)})"))
    if one.HasField("last_disruption"):
        last = one.last_disruption
        at = last.time.ToDatetime(UTC).isoformat(timespec="seconds")
        text = f"{reason(last.reason)} at {at}, {last.count} in a row: {printable(last.message)}"
        rows.append(("last disruption", text))
    if one.HasField("volume"):
        bound = "bound" if one.volume.bound else "not bound"
        rows.append(("volume", f"{one.volume.name}, {one.volume.size}, {bound}"))
    rows += [("stateful set", one.stateful_set_name), ("service", one.service_name), ("dns name", one.dns_name)]
    if not _gone(one):
        rows += [("application", one.public_url), ("terminal", one.ttyd_url or "-")]
    for condition in one.conditions:
        kind = words.short(pb.ConditionType, condition.type).lower().replace("_", " ")
        value = words.short(pb.ConditionStatus, condition.status).lower()
        rows.append((kind, f"{value} ({reason(condition.reason)})"))
    for row in rows:
        table.add_row(*row)
    out.print(table)


def as_json(value: Any) -> None:
    """Prints a value as JSON on several lines. It may contain messages."""
    out.print_json(json.dumps(value, default=plain), ensure_ascii=not out.encoding.startswith("utf"))


def line(value: Any) -> None:
    """Prints a value as JSON on one line. It may contain messages."""
    out.out(json.dumps(value, default=plain), highlight=False)


def plain(message: Message) -> dict[str, Any]:
    """Returns a message as JSON values, with the field names of the contract. Empty fields are included."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _gone(one: pb.SandboxStatus) -> bool:
    """Whether the URLs of the sandbox are no longer in use."""
    return one.phase == pb.PHASE_TERMINATED


def _clock(at: Timestamp) -> str:
    return at.ToDatetime(UTC).astimezone().strftime("%H:%M:%S")


def _age(since: Timestamp) -> str:
    seconds = int((datetime.now(UTC) - since.ToDatetime(UTC)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(seconds, 0)}s"
