"""The life of a snapshot: `decide` says what it is and what to do about it. Pure and level-triggered, as `lifecycle`."""

import enum
from dataclasses import dataclass, replace
from datetime import datetime

from sandbox_server.domain import check
from sandbox_server.domain.lifecycle import MESSAGE_MOST
from sandbox_server.domain.phase import DesiredState, Phase
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.snapshot import Consistency, Snapshot, SnapshotReason, State, Taken


class Act(enum.Enum):
    """What the engine is to do."""

    TAKE = "take"
    DISCARD = "discard"


@dataclass(frozen=True, slots=True)
class Decision:
    """The snapshot as it is from now on, and what to do about it; None: nothing, or to wait."""

    snapshot: Snapshot
    act: Act | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a decision rests on beside the snapshot.

    - `taken`: what the engine shows of it.
    - `sandbox`: the one that it is of; None if that has ended.
    - `needed_by`: the id of a sandbox whose disk is being made from it; empty if there is none.
    """

    taken: Taken
    sandbox: Sandbox | None
    needed_by: str
    now: datetime


def decide(snapshot: Snapshot, at: Facts) -> Decision:
    """Returns what `snapshot` is and what to do about it."""
    if snapshot.state is State.DELETED:
        return Decision(snapshot)
    if _sandbox_ends(at.sandbox) and not snapshot.outlives_sandbox:
        snapshot = replace(snapshot, asked_to_go=True)
    if snapshot.asked_to_go:
        return _going(snapshot, at)
    match snapshot.state:
        case State.CREATING:
            return _creating(snapshot, at)
        case State.READY if at.taken.state is not State.READY:
            message = at.taken.message or "somebody else removed what the snapshot consists of"
            return Decision(moved(snapshot, State.FAILED, SnapshotReason.LOST, message, at.now))
        case State.FAILED if snapshot.reason is SnapshotReason.LOST:
            return _lost(snapshot, at)
        case State.FAILED:
            return Decision(snapshot, _left(at))
        case _:
            return Decision(snapshot)


def _sandbox_ends(sandbox: Sandbox | None) -> bool:
    """Whether a sandbox has ended, or goes. One whose last snapshot is awaited keeps the others until that one is there."""
    return sandbox is None or (sandbox.desired is DesiredState.DELETED and sandbox.last_snapshot is None)


def needs(sandbox: Sandbox, snapshot_uid: str) -> bool:
    """Whether the disk of a sandbox is being made from a snapshot, or is yet to be."""
    origin, volume = sandbox.origin, sandbox.status.volume
    if origin is None or origin.snapshot_uid != snapshot_uid or sandbox.desired is DesiredState.DELETED:
        return False
    return sandbox.volume_uid == "" or (volume is not None and not volume.bound and sandbox.filled_generation == 0)


def _going(snapshot: Snapshot, at: Facts) -> Decision:
    if at.needed_by:
        message = f"it goes when the disk of {at.needed_by} has been made from it"
        return Decision(moved(snapshot, State.DELETING, SnapshotReason.DELETING, message, at.now))
    if snapshot.verifies:
        message = "it goes when nothing is left of its verification"
        return Decision(moved(snapshot, State.DELETING, SnapshotReason.DELETING, message, at.now))
    if at.taken.state is State.DELETED:
        return Decision(moved(snapshot, State.DELETED, SnapshotReason.DELETED, "removed", at.now))
    said = at.taken.message if at.taken.state is State.DELETING else ""
    going = moved(snapshot, State.DELETING, SnapshotReason.DELETING, said or "it is being removed", at.now)
    return Decision(going, Act.DISCARD)


def _creating(snapshot: Snapshot, at: Facts) -> Decision:
    taken = at.taken
    if taken.state is State.FAILED:
        return _failed(snapshot, at, taken.reason, taken.message)
    if snapshot.consistency is Consistency.STOPPED and _has_run(snapshot, at.sandbox):
        message = "the sandbox was started before its stopped disk was copied: stop it and take another snapshot"
        return _failed(snapshot, at, SnapshotReason.NOT_STOPPED, message)
    if taken.state is State.READY:
        message = taken.message or "the disk is copied"
        ready = moved(snapshot, State.READY, SnapshotReason.READY, message, at.now)
        # Of a disk that is being expanded, the storage has copied one that is larger already.
        size = max(snapshot.size, taken.size, key=check.amount)
        return Decision(replace(ready, ready_time=at.now, used_bytes=taken.used_bytes, size=size))
    if taken.state is State.CREATING and taken.reason is not SnapshotReason.ACCEPTED:
        return Decision(moved(snapshot, State.CREATING, taken.reason, taken.message, at.now))
    if at.sandbox is None or at.sandbox.volume_uid != snapshot.volume_uid:
        message = "the disk was removed or replaced before it was copied"
        return _failed(snapshot, at, SnapshotReason.DISK_GONE, message)
    return Decision(snapshot, Act.TAKE)


def _has_run(snapshot: Snapshot, sandbox: Sandbox | None) -> bool:
    """Whether something has run on the disk since the snapshot was asked for, of a sandbox that was STOPPED."""
    if sandbox is None:
        return False
    starts = sandbox.desired is DesiredState.RUNNING or sandbox.start_generation != snapshot.start_generation
    stops = sandbox.desired is DesiredState.STOPPED and sandbox.status.phase is not Phase.STOPPED
    return starts or stops


def _lost(snapshot: Snapshot, at: Facts) -> Decision:
    """Nothing is removed of a snapshot that is LOST: what it consists of may only have been out of sight."""
    if at.taken.state is not State.READY:
        return Decision(snapshot)
    message = at.taken.message or "what it consists of is there again"
    return Decision(moved(snapshot, State.READY, SnapshotReason.READY, message, at.now))


def _failed(snapshot: Snapshot, at: Facts, reason: SnapshotReason, message: str) -> Decision:
    return Decision(moved(snapshot, State.FAILED, reason, message, at.now), _left(at))


def _left(at: Facts) -> Act | None:
    """A snapshot that could not be taken leaves nothing."""
    return None if at.taken.state is State.DELETED else Act.DISCARD


def moved(snapshot: Snapshot, state: State, reason: SnapshotReason, message: str, now: datetime) -> Snapshot:
    """Returns a snapshot in another state, or in the same for another reason."""
    since = snapshot.transition_time if state is snapshot.state else now
    return replace(snapshot, state=state, reason=reason, message=message[:MESSAGE_MOST], transition_time=since)
