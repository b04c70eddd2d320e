"""What the process of a sandbox prints, read by positions. Without I/O, for both clients."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sandbox.v1 import access_pb2 as pb

from sandbox_client import calls, words


@dataclass(frozen=True, slots=True)
class LogLines:
    """Whole lines with their ends; a very long line comes in pieces. `position` is that behind them."""

    data: bytes
    position: str
    at: datetime | None
    """When the last of them was printed, if that is known."""


@dataclass(frozen=True, slots=True)
class LogGap:
    """Output is missing between what came before and what follows."""


@dataclass(frozen=True, slots=True)
class LogEnded:
    """The process has ended. `reason` is one of `LogEndReason` in the contract, without its prefix."""

    reason: str


Log = LogLines | LogGap | LogEnded


class Position:
    """How far the output was read, from where reading goes on after a cut. `complete` says that nothing follows."""

    def __init__(self, request: pb.StreamLogsRequest) -> None:
        self.request = request
        self.complete = False

    def take(self, message: pb.StreamLogsResponse) -> Log | None:
        """Returns what a message says, None for a heartbeat, and moves the position behind it."""
        match message.WhichOneof("event"):
            case "lines":
                lines = message.lines
                self.request.after_position = lines.position
                at = lines.at.ToDatetime(UTC) if lines.HasField("at") else None
                return LogLines(lines.data, lines.position, at)
            case "gap":
                return LogGap()
            case "ended":
                self.complete = True
                return LogEnded(words.short(pb.LogEndReason, message.ended.reason))
        return None

    def ended(self) -> None:
        """Takes in that the stream has ended without an error. With `follow` it was cut unless it said that it is complete."""
        self.complete = self.complete or not self.request.follow


def request(
    sandbox: calls.Named,
    namespace: str,
    previous: bool,
    follow: bool,
    tail: int | None,
    since: datetime | None,
    after_position: str,
) -> pb.StreamLogsRequest:
    """Returns the first request of a read."""
    sandbox_id, namespace = calls.target(sandbox, namespace)
    made = pb.StreamLogsRequest(
        sandbox_id=sandbox_id,
        namespace=namespace,
        previous=previous,
        follow=follow,
        tail_lines=tail,
        after_position=after_position,
    )
    if since is not None:
        made.since.FromDatetime(since)
    return made
