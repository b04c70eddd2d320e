"""Lines for people: progress, changes and failures. Standard output is for the answer alone."""

import os
import sys
from collections.abc import Callable
from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.text import Text
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import snapshot_pb2
from sandbox_client import errors, words

# So wide that a table never cuts an id or a URL, which people copy and programs read. The terminal wraps the lines.
out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=1000)
err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

_CUT = "..."
_COLOURS = {"RUNNING": "green", "STOPPED": "blue", "TERMINATED": "dim", "ERROR": "red"}


def coloured(name: str) -> Text:
    """Returns a phase in its colour."""
    return Text(name, _COLOURS.get(name, "yellow"))


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


def unanswered(server: str, within: float) -> None:
    """Prints on standard error that nothing answers yet and that the command goes on for `within` seconds in all."""
    err.print(f"nothing answers at {printable(server)} yet: trying for {within:g} s in all (Ctrl-C ends this)")


def back() -> None:
    """Prints on standard error, after `lost`, that the service is reached again."""
    err.print("the service is back")


def change(status: pb.SandboxStatus, sequence: int) -> None:
    """Prints an event of a watch on one line, which is cut at its end to the width of a terminal."""
    told = f"{reason(status.reason)}: {printable(status.message)}"
    _event(sequence, status.transition_time, coloured(phase(status)), f"{status.namespace}/{status.sandbox_id}", told)


def snapshot_change(snapshot: snapshot_pb2.Snapshot, sequence: int) -> None:
    """Prints an event of a watch of snapshots as `change` does."""
    state = Text(words.short(snapshot_pb2.SnapshotState, snapshot.state))
    told = f"{words.short(snapshot_pb2.SnapshotReason, snapshot.reason)}: {printable(snapshot.message)}"
    _event(sequence, snapshot.transition_time, state, f"{snapshot.namespace}/{snapshot.snapshot_id}", told)


def _event(sequence: int, at: Timestamp, state: Text, name: str, told: str) -> None:
    state.pad_right(max(0, 11 - state.cell_len))
    line = Text.assemble(f"{sequence:>4} {_clock(at)} ", state, f" {name}")
    width = _width()
    # If hardly anything fits after the name, there is no room for the mark of a cut.
    left = width - line.cell_len
    cut = "" if width and 0 <= left <= len(_CUT) else _CUT
    line.append(f" {told}")
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


def _clock(at: Timestamp) -> str:
    return at.ToDatetime(UTC).astimezone().strftime("%H:%M:%S")
