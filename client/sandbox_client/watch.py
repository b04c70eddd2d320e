"""A watch across disconnects: what to ask for, and what each message means. It knows no channel."""

import enum
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sandbox.v1 import sandbox_pb2 as pb

from sandbox_client import errors, retry, words

SILENCE = 3.0
"""Seconds without the service before it is told: a restart takes about one, and is nobody's business."""


class Kind(enum.Enum):
    """What an event is."""

    SNAPSHOT = "snapshot"
    """A status that was so when the watch began."""
    SYNCED = "synced"
    """The snapshot is complete."""
    CHANGE = "change"
    """A status that is new."""
    RESYNC = "resync"
    """The history was trimmed, or the snapshot broken off: another snapshot follows. Forget what you know."""


@dataclass(frozen=True, slots=True)
class Event:
    """`status` is None for SYNCED and RESYNC; `sequence` is where the stream stands."""

    kind: Kind
    sequence: int
    status: pb.SandboxStatus | None = None


class Cursor:
    """Where one watch stands."""

    def __init__(
        self,
        request: pb.WatchStatusRequest,
        timeout: float | None,
        lost: Callable[[errors.ServiceError], None] = lambda _error: None,
        back: Callable[[], None] = lambda: None,
    ) -> None:
        """`lost` hears, once an outage, of a service that has not been reached for SILENCE seconds; then `back` hears of
        the first message from it.
        """
        self.schedule = retry.Schedule(timeout)
        self._lost = lost
        self._back = back
        self._outage = 0.0
        self._told = False
        self._request = request
        self._synced = request.HasField("after_sequence")
        self._begun = False

    def request(self) -> pb.WatchStatusRequest:
        """What to open the stream with, now."""
        return self._request

    def take(self, message: pb.WatchStatusResponse) -> Event | None:
        """The event that a message is; None for a heartbeat."""
        self.schedule.succeeded()
        if self._told:
            self._back()
        self._outage, self._told = 0.0, False
        kind = message.WhichOneof("event")
        if kind == "snapshot_complete":
            self._synced = True
        if self._synced:
            self._request.after_sequence = message.sequence
        if kind == "status":
            self._begun = True
            return Event(Kind.CHANGE if self._synced else Kind.SNAPSHOT, message.sequence, message.status)
        if kind == "snapshot_complete":
            # The next status is a change, and what went before it was the snapshot.
            return Event(Kind.SYNCED, message.sequence)
        return None

    def failed(self, error: errors.ServiceError) -> tuple[float, Event | None]:
        """Seconds to wait before the stream is opened again, and what to tell first. Raises `error` if it is final."""
        if isinstance(error, errors.OutOfRange) and self._request.HasField("after_sequence"):
            self._request.ClearField("after_sequence")
            self._synced = self._begun = False
            return 0.0, Event(Kind.RESYNC, 0)
        wait = self.schedule.delay(error)
        now = time.monotonic()
        self._outage = self._outage or now
        if now - self._outage >= SILENCE and not self._told:
            self._told = True
            self._lost(error)
        if self._begun and not self._synced:
            self._begun = False
            return wait, Event(Kind.RESYNC, 0)
        return wait, None


def request(
    sandbox_ids: Iterable[str], namespace: str, project: str, label_selector: str, after_sequence: int | None
) -> pb.WatchStatusRequest:
    """The first request of a watch."""
    return pb.WatchStatusRequest(
        sandbox_ids=sandbox_ids,
        namespace=namespace,
        project=project,
        label_selector=label_selector,
        after_sequence=after_sequence,
    )


def reached(status: pb.SandboxStatus, wanted: "pb.Phase.ValueType", generation: int, fail_on_error: bool) -> bool:
    """Whether a status is the one waited for. Raises `errors.SandboxFailed` if it never will be, or, with
    `fail_on_error`, if it is PHASE_ERROR. A status of an older generation than `generation` does not count.
    """
    if status.generation < generation:
        return False
    if status.phase == wanted:
        return True
    if status.phase == pb.PHASE_TERMINATED or (fail_on_error and status.phase == pb.PHASE_ERROR):
        raise errors.SandboxFailed(status)
    return False


FINAL = (pb.REMEDY_UNSPECIFIED, pb.REMEDY_CALLER)
"""What ends a wait at once: the caller has to act, or the service is one that does not say who has to."""


class Wait:
    """One wait for a phase: judges each event, and says where the sandbox stood when the time ran out.

    Use for one watch after another: each from `sequence` and for `left` seconds, until `take` returns a status or
    raises. `turned` says when to begin the next watch, since the seconds that are left are others now.
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
        self._end = _end(timeout)
        self._patience_end: float | None = None
        self._progress = progress
        self._last: pb.SandboxStatus | None = None
        self.turned = False

    @property
    def sequence(self) -> int | None:
        """Where the next watch resumes; None before the first status."""
        return self._last.sequence if self._last is not None else None

    def left(self) -> float | None:
        """Seconds until the time or the patience runs out; None for no end."""
        end = self._end if self._patience_end is None else min(self._end, self._patience_end)
        return None if end == math.inf else max(0.0, end - time.monotonic())

    def take(self, event: Event) -> pb.SandboxStatus | None:
        """The status waited for, once it is there. Raises `errors.SandboxFailed`."""
        status = event.status
        if status is None:
            return None
        self._last = status
        self._progress(status)
        fails = self._fail_on_error and status.phase == pb.PHASE_ERROR and status.generation >= self._generation
        bears = fails and status.remedy not in FINAL and self._patience > 0
        self.turned = bears == (self._patience_end is None)
        if self.turned:
            self._patience_end = _end(self._patience) if bears else None
        return status if reached(status, self._wanted, self._generation, fails and not bears) else None

    def ended(self, error: errors.ServiceError) -> Exception:
        """What to raise where a watch ended with `error`: the sandbox's failure, if the patience ran out."""
        if self._last is not None and self._patience_end is not None and self._patience_end <= self._end:
            return errors.SandboxFailed(self._last)
        return self.timed_out(error) if isinstance(error, errors.TimedOut) else error

    def timed_out(self, error: errors.TimedOut) -> errors.TimedOut:
        """`error` with the last status in its message."""
        last = "nothing was heard of it"
        if self._last is not None:
            phase, reason = words.short(pb.Phase, self._last.phase), words.short(pb.Reason, self._last.reason)
            last = f"{self._last.sandbox_id} is {phase}: {reason}: {self._last.message}"
        message = f"it is not {words.short(pb.Phase, self._wanted)} within the time: {last}"
        return errors.TimedOut(message, error.code, error.reason)


def _end(seconds: float | None) -> float:
    """When so many seconds have passed from now."""
    return math.inf if seconds is None or seconds >= retry.FOREVER else time.monotonic() + seconds
