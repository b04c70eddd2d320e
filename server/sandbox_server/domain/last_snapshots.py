"""The snapshot that is taken of a deleted sandbox before its disk goes, where a schedule says so. Pure, as `schedules`."""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sandbox_server.domain import errors, snapshot_mutations
from sandbox_server.domain.lifecycle import MESSAGE_MOST
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import LastSnapshot, Sandbox
from sandbox_server.domain.schedule import Schedule
from sandbox_server.domain.snapshot import Consistency, Snapshot, SnapshotReason, State


class Act(enum.Enum):
    """What is due."""

    TAKE = "take"
    """Ask for the snapshot."""
    REMOVE = "remove"
    """Remove one that has failed, so that another is taken."""
    RELEASE = "release"
    """Wait no more: the deletion goes on."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is said of the wait, and what is due; None: nothing, or to wait.

    `schedule`: the one that the snapshot is taken by. `snapshot`: the one that is to be removed, or for which nothing waits any
    more; None if nothing waits although there is none.
    """

    message: str
    act: Act | None = None
    schedule: Schedule | None = None
    snapshot: Snapshot | None = None


def awaited(deleted: Sandbox, schedules: Iterable[Schedule]) -> Sandbox:
    """Returns a sandbox that was just deleted, which waits for a snapshot if it has a disk and a schedule says so.

    Raises `errors.FailedPrecondition` where its files are not on its disk yet.
    """
    schedule = _first(deleted, schedules)
    if schedule is not None and deleted.moves:
        raise errors.FailedPrecondition(
            "FILES_MOVING",
            f"the files of the sandbox {deleted.id!r} are still being moved to its disk, so that no snapshot has them: wait for "
            f"PHASE_RUNNING or PHASE_STOPPED, or set before_delete of the schedule {schedule.id} to false",
        )
    if schedule is None or not deleted.volume_uid:
        return deleted
    return replace(deleted, last_snapshot=LastSnapshot(_ends(schedule)))


def decide(
    sandbox: Sandbox, schedules: Iterable[Schedule], snapshots: Sequence[Snapshot], now: datetime, pace: Pace
) -> Decision:
    """Returns what is due of a sandbox that waits. `snapshots` are those of the sandbox that are not DELETED."""
    schedule = _first(sandbox, schedules)
    mine = [one for one in snapshots if one.sandbox_uid == sandbox.uid and one.before_delete and not one.asked_to_go]
    ready = next((one for one in mine if one.state is State.READY), None)
    if schedule is None:
        return Decision("no schedule asks for a snapshot any more", Act.RELEASE)
    if ready is not None:
        return Decision(f"the snapshot {ready.id} is READY", Act.RELEASE, schedule, ready)
    if _diskless(sandbox, mine):
        return Decision("there is no disk of which a snapshot could be taken", Act.RELEASE, schedule)
    if taking := next((one for one in mine if one.state is State.CREATING), None):
        if taking.reason not in (SnapshotReason.ACCEPTED, SnapshotReason.COPYING):
            return Decision(refused(schedule, _words(taking)))
        return Decision(f"the snapshot {taking.id} is taken before the disk goes, as the schedule {schedule.id} says")
    if failed := next((one for one in mine if one.reason is not SnapshotReason.LOST), None):
        over = now >= failed.transition_time + timedelta(seconds=pace.last_snapshot_again)
        return Decision(refused(schedule, _words(failed)), Act.REMOVE if over else None, schedule, failed)
    if sandbox.status.reason is not Reason.LAST_SNAPSHOT:
        return Decision(_ends(schedule))
    known = "" if sandbox.last_snapshot is None else sandbox.last_snapshot.message
    return Decision(known, Act.TAKE, schedule)


def taken(schedule: Schedule, sandbox: Sandbox, snapshot_id: str, uid: str, now: datetime) -> Snapshot:
    """Returns the snapshot that a deletion waits for, as it is asked for. Nothing runs in the sandbox any more."""
    wanted = snapshot_mutations.Wanted(snapshot_id, sandbox.key, Consistency.STOPPED, True, {})
    made = snapshot_mutations.made(wanted, snapshot_id, uid, sandbox, now)
    return replace(made, schedule_id=schedule.id, schedule_uid=schedule.uid, before_delete=True)


def refused(schedule: Schedule, why: str) -> str:
    """Returns what is said where there is no snapshot. `why` says why not."""
    end = (
        ". It is tried again. To delete the sandbox without a snapshot, set before_delete of the schedule "
        f"{schedule.id} to false (UpdateSchedule)"
    )
    begin = f"the disk stays, since its snapshot was not taken: {why}"
    return begin[: MESSAGE_MOST - len(end)] + end


def released(sandbox: Sandbox) -> Sandbox:
    """Returns a sandbox that waits no more. Its objects go as if it had just been deleted."""
    return replace(sandbox, last_snapshot=None, applied_generation=0)


def _first(sandbox: Sandbox, schedules: Iterable[Schedule]) -> Schedule | None:
    """Returns the schedule by which a snapshot is taken before the disk of a sandbox goes; None if there is none."""
    return next((one for one in schedules if one.before_delete and one.matches(sandbox)), None)


def _diskless(sandbox: Sandbox, snapshots: Iterable[Snapshot]) -> bool:
    """Whether no snapshot can ever be taken of the disk of a sandbox in which nothing runs: it was never bound, has lost its volume, or is
    gone. A copy that was begun may become READY without it."""
    if any((one.state, one.reason) == (State.CREATING, SnapshotReason.COPYING) for one in snapshots):
        return False
    volume = sandbox.status.volume
    observed = sandbox.status.reason is Reason.LAST_SNAPSHOT
    gone = any((one.state, one.reason) == (State.FAILED, SnapshotReason.DISK_GONE) for one in snapshots)
    return gone or (observed and (volume is None or not volume.bound))


def _words(snapshot: Snapshot) -> str:
    return f"{snapshot.id}: {snapshot.reason.name}: {snapshot.message}"


def _ends(schedule: Schedule) -> str:
    return f"a snapshot is taken before the disk goes, as the schedule {schedule.id} says, once nothing runs"
