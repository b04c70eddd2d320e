"""A watch that goes on after disconnects, and a wait for a phase. Without I/O, for both clients."""

import abc
import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import snapshot_pb2

from sandbox_client import errors, outage, retry, words


class Kind(enum.Enum):
    """The kinds of events. A watch is of sandboxes, or of the snapshots of their disks."""

    SNAPSHOT = "snapshot"
    """One of them as it was when the watch began."""
    SYNCED = "synced"
    """All that there were have been said."""
    CHANGE = "change"
    """One of them is another from then on."""
    RESYNC = "resync"
    """The history was trimmed, or what was there had not been said in full. It follows again: forget all former events."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a watch. `status` is None for SYNCED and RESYNC; `sequence` is the log's at this event, or 0.

    `changed` has the names of the fields of a CHANGE's status that differ from the sandbox's event before it; None if that is
    not known, as for its first event.
    """

    kind: Kind
    sequence: int
    status: pb.SandboxStatus | None = None
    changed: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class SnapshotEvent:
    """An event of a watch of snapshots. `snapshot` is None for SYNCED and RESYNC; `sequence` is the log's, or 0."""

    kind: Kind
    sequence: int
    snapshot: snapshot_pb2.Snapshot | None = None


_Event = TypeVar("_Event")


class Cursor(abc.ABC, Generic[_Event]):
    """The position of a watch, from which it resumes after a disconnect."""

    method: str
    """The call of the watch."""
    _item: str
    _complete: str

    def __init__(
        self,
        request: Any,
        timeout: float | None,
        lost: Callable[[errors.ServiceError], None] = lambda _error: None,
        back: Callable[[], None] = lambda: None,
    ) -> None:
        """For `lost` and `back` see `outage.Outage`."""
        self.schedule = retry.Schedule(timeout)
        self._outage = outage.Outage(lost, back)
        self._request = request
        self._synced = request.HasField("after_sequence")
        self._begun = False

    @abc.abstractmethod
    def _event(self, kind: Kind, sequence: int, message: Any = None) -> _Event:
        """Returns an event, with what the message has if there is one."""

    def request(self) -> Any:
        """Returns the request that opens the stream at this position."""
        return self._request

    def take(self, message: Any) -> _Event | None:
        """Returns the event of a message, None for a heartbeat, and moves the position to it."""
        self.schedule.succeeded()
        self._outage.end()
        kind = message.WhichOneof("event")
        if kind == self._complete:
            self._synced = True
        if self._synced:
            self._request.after_sequence = message.sequence
        if kind == self._item:
            self._begun = True
            return self._event(Kind.CHANGE if self._synced else Kind.SNAPSHOT, message.sequence, message)
        if kind == self._complete:
            return self._event(Kind.SYNCED, message.sequence)
        return None

    def failed(self, error: errors.ServiceError) -> tuple[float, _Event | None]:
        """Returns the seconds until the stream should be opened again, and an event of its own for the caller or None.

        Raises `error` if the watch cannot go on.
        """
        if isinstance(error, errors.OutOfRange) and self._request.HasField("after_sequence"):
            self._request.ClearField("after_sequence")
            self._synced = False
            self._begun = False
            return 0.0, self._event(Kind.RESYNC, 0)
        delay = self.schedule.delay(error)
        self._outage.last(error)
        if self._begun and not self._synced:
            self._begun = False
            return delay, self._event(Kind.RESYNC, 0)
        return delay, None


class StatusCursor(Cursor[Event]):
    """The position of a watch of sandboxes."""

    method = "WatchStatus"
    _item = "status"
    _complete = "snapshot_complete"

    def _event(self, kind: Kind, sequence: int, message: pb.WatchStatusResponse | None = None) -> Event:
        if message is None:
            return Event(kind, sequence)
        changed = tuple(message.changed_fields.paths) if message.HasField("changed_fields") else None
        return Event(kind, sequence, message.status, changed)


class SnapshotCursor(Cursor[SnapshotEvent]):
    """The position of a watch of snapshots."""

    method = "WatchSnapshots"
    _item = "snapshot"
    _complete = "complete"

    def _event(
        self, kind: Kind, sequence: int, message: snapshot_pb2.WatchSnapshotsResponse | None = None
    ) -> SnapshotEvent:
        return SnapshotEvent(kind, sequence, None if message is None else message.snapshot)


def request(
    sandbox_ids: Iterable[str],
    namespace: str,
    project: str,
    label_selector: str,
    after_sequence: int | None,
    include_terminated: bool = False,
    tenant: str = "",
) -> pb.WatchStatusRequest:
    """Returns the first request of a watch."""
    return pb.WatchStatusRequest(
        sandbox_ids=sandbox_ids,
        namespace=namespace,
        project=project,
        label_selector=label_selector,
        after_sequence=after_sequence,
        include_terminated=include_terminated,
        tenant=tenant,
    )


def reached(status: pb.SandboxStatus, wanted: "pb.Phase.ValueType", generation: int, fail_on_error: bool) -> bool:
    """Whether a status has the wanted phase, at `generation` or later.

    Raises `errors.SandboxFailed` for PHASE_TERMINATED, after which no other phase follows, and with `fail_on_error` for
    PHASE_ERROR.
    """
    if status.generation < generation:
        return False
    if status.phase == wanted:
        return True
    if status.phase == pb.PHASE_TERMINATED or (fail_on_error and status.phase == pb.PHASE_ERROR):
        raise errors.SandboxFailed(status)
    return False


FINAL = (pb.REMEDY_UNSPECIFIED, pb.REMEDY_CALLER)
"""The remedies with which an error ends a wait at once: the caller has to act, or the service is older than remedies."""


class Wait:
    """A wait for a phase, by one watch after another.

    Each watch begins at `sequence` and lasts for `left` seconds, until `take` returns a status or raises. When `turned`
    is set, the time that is left has changed: end the watch and begin the next one.
    """

    def __init__(
        self,
        wanted: "pb.Phase.ValueType",
        generation: int,
        fail_on_error: bool,
        progress: Callable[[pb.SandboxStatus], None],
        patience: float = retry.PATIENCE,
        timeout: float | None = None,
    ) -> None:
        self._wanted = wanted
        self._generation = generation
        self._fail_on_error = fail_on_error
        self._patience = patience
        self._end = retry.end_after(timeout)
        self._tolerating = False
        self._patience_end: float | None = None
        self._progress = progress
        self._last: pb.SandboxStatus | None = None
        self.turned = False

    @property
    def sequence(self) -> int | None:
        """The sequence after which the next watch resumes; None before the first status."""
        return self._last.sequence if self._last is not None else None

    def left(self) -> float | None:
        """Returns the seconds until the timeout or the end of the patience, None without either."""
        ends = [end for end in (self._end, self._patience_end) if end is not None]
        return retry.seconds_until(min(ends, default=None))

    def take(self, event: Event) -> pb.SandboxStatus | None:
        """Returns the status of an event if the wait was for this status, else None.

        Raises `errors.SandboxFailed` if it will not come, or if the caller has to act on an error.
        """
        status = event.status
        if status is None:
            return None
        self._last = status
        self._progress(status)
        fails = self._fail_on_error and status.phase == pb.PHASE_ERROR and status.generation >= self._generation
        tolerated = fails and status.remedy not in FINAL and self._patience > 0
        self.turned = tolerated is not self._tolerating
        self._tolerating = tolerated
        if self.turned:
            self._patience_end = retry.end_after(self._patience) if tolerated else None
        return status if reached(status, self._wanted, self._generation, fails and not tolerated) else None

    def ended(self, error: errors.ServiceError) -> Exception:
        """Returns what to raise after a watch that ended with `error`: SandboxFailed if the patience ran out first."""
        if self._last is not None and self._patience_end is not None:
            patience_ended_first = self._end is None or self._patience_end <= self._end
            if patience_ended_first:
                return errors.SandboxFailed(self._last)
        return self.timed_out(error) if isinstance(error, errors.TimedOut) else error

    def timed_out(self, error: errors.TimedOut) -> errors.TimedOut:
        """Returns `error` with the last status in its message."""
        last = "nothing was heard of it"
        if self._last is not None:
            phase = words.short(pb.Phase, self._last.phase)
            reason = words.short(pb.Reason, self._last.reason)
            last = f"{self._last.sandbox_id} is {phase}: {reason}: {self._last.message}"
        message = f"it is not {words.short(pb.Phase, self._wanted)} within the time: {last}"
        return errors.TimedOut(message, error.code, error.reason)
