"""The life of a schedule: which slot of a sandbox is due, what its snapshot is, and which snapshots go. Pure, as `snapshots`."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from sandbox_server.domain import check, errors, snapshot_mutations
from sandbox_server.domain.lifecycle import MESSAGE_MOST
from sandbox_server.domain.phase import DesiredState
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.schedule import Covered, Missed, MissedReason, Schedule
from sandbox_server.domain.snapshot import Snapshot, SnapshotReason, State, VerificationState

_REFUSALS = {
    "NO_DISK": MissedReason.NO_DISK,
    "FILES_MOVING": MissedReason.NO_DISK,
    "SANDBOX_NOT_STOPPED": MissedReason.NOT_STOPPED,
    "SNAPSHOTS_UNSUPPORTED": MissedReason.UNSUPPORTED,
    "TOO_MANY_SNAPSHOTS": MissedReason.TOO_MANY_SNAPSHOTS,
    "SNAPSHOT_EXISTS": MissedReason.ID_TAKEN,
}
"""Why a slot is missed of which no snapshot can be taken, by the reason of the error."""
_SKEW = timedelta(minutes=5)
"""By how much the clocks of machines that work may differ."""
_AT = "%Y%m%dt%H%M"


@dataclass(frozen=True, slots=True)
class Due:
    """A slot that is to be worked now, and the number of slots before it that nobody has worked.

    `ahead`: what was recorded before is from a clock that was ahead, and does not count.
    """

    slot: datetime
    skipped: int
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class Worked:
    """A schedule and how far the slots of a sandbox were worked, once one was.

    `snapshot`: that of the slot, as it is asked for. `missed`: slots that were missed, each the last of so many.
    """

    schedule: Schedule
    covered: Covered
    snapshot: Snapshot | None = None
    missed: tuple[tuple[Missed, int], ...] = ()


def covers(schedule: Schedule, sandbox: Sandbox) -> bool:
    """Whether the slots of a schedule count for a sandbox."""
    return sandbox.desired is not DesiredState.DELETED and schedule.matches(sandbox)


def begin(schedule: Schedule, sandbox: Sandbox) -> Covered:
    """Returns what is recorded first of a sandbox that a schedule covers.

    Slots count that follow the creation of both. By labels they follow the last mutation, which may have given it those.
    """
    since = max(schedule.since, sandbox.create_time)
    if schedule.target.label_selector:
        since = max(since, sandbox.attempt_at)
    return Covered(
        schedule_uid=schedule.uid,
        sandbox_uid=sandbox.uid,
        namespace=sandbox.namespace,
        sandbox_id=sandbox.id,
        since=since,
    )


def due(schedule: Schedule, covered: Covered, now: datetime) -> Due | None:
    """Returns the latest slot of a sandbox that is not worked; None if there is none.

    A clock that was set back finds none, unless it would for longer than from one slot to the next: then it finds the latest.
    """
    if (slots := schedule.slots) is None:
        return None
    latest = slots.latest(now)
    after = covered.slot or max(schedule.since, covered.since)
    if after > now + slots.every:
        return Due(latest, 0, ahead=True)
    # What counts only from a moment that is yet to come, although a slot was worked, is from a clock that was ahead too.
    after = max((after, *(one for one in (schedule.since, covered.since) if one <= now)))
    return Due(latest, slots.between(after, latest)) if latest > after else None


def names(schedule: Schedule, sandbox: Sandbox, at: datetime, word: str = "") -> Iterator[str]:
    """Yields the ids that the snapshot of a moment can have: a readable one, and one that no other snapshot will have."""
    end = f"-{word}{at.strftime(_AT)}"
    yield f"{_cut(sandbox.id, len(end))}{end}"
    end += "-" + hashlib.sha256(f"{schedule.uid}/{sandbox.uid}".encode()).hexdigest()[:6]
    yield f"{_cut(sandbox.id, len(end))}{end}"


def _cut(sandbox_id: str, room: int) -> str:
    return sandbox_id[: check.ID_MOST - room].rstrip("-")


def taken(schedule: Schedule, sandbox: Sandbox, slot: datetime, snapshot_id: str, uid: str, now: datetime) -> Snapshot:
    """Returns the snapshot of a slot, as it is asked for. Raises `errors.FailedPrecondition` as `snapshot_mutations.new`."""
    wanted = snapshot_mutations.Wanted(
        snapshot_id, Key(sandbox.namespace, sandbox.id), schedule.consistency, schedule.outlives_sandbox, {}
    )
    made = snapshot_mutations.new(wanted, snapshot_id, uid, sandbox, now)
    return replace(made, schedule_id=schedule.id, schedule_uid=schedule.uid)


def worked(schedule: Schedule, covered: Covered, due: Due, snapshot: Snapshot | None) -> Worked:
    """Returns what is recorded of a slot, with its snapshot or without, and of those before it that nobody has worked."""
    missed: tuple[tuple[Missed, int], ...] = ()
    if due.skipped and (slots := schedule.slots) is not None:
        message = f"the service did not run at this slot; {due.skipped} in a row"
        missed = ((Missed(due.slot - slots.every, covered.sandbox_id, MissedReason.NOT_RUN, message), due.skipped),)
    after = replace(covered, slot=due.slot)
    if snapshot is not None:
        last = due.slot if schedule.last_slot is None or due.ahead else max(schedule.last_slot, due.slot)
        schedule = replace(schedule, last_slot=last)
        after = replace(after, snapshot_id=snapshot.id, snapshot_uid=snapshot.uid, snapshot_slot=due.slot)
    return _missing(Worked(schedule, after, snapshot), missed)


def backed_up(snapshots: Iterable[Snapshot]) -> datetime:
    """Returns when the last of the snapshots of a sandbox was taken; before all times if there is none."""
    return max((one.create_time for one in snapshots), default=datetime.min.replace(tzinfo=UTC))


def may_wait(schedule: Schedule, due: Due, why: errors.ServiceError, now: datetime) -> bool:
    """Whether a slot of which no snapshot can be taken stays due, where snapshots of its schedule are being taken or removed: the
    tenant may have fewer afterwards. It does not until the next slot, so that this one is missed with its reason."""
    slots = schedule.slots
    return why.reason == "TOO_MANY_SNAPSHOTS" and slots is not None and now < due.slot + slots.every * 0.9


def refused(schedule: Schedule, covered: Covered, due: Due, why: errors.ServiceError) -> Worked:
    """Returns what is recorded of a slot that is missed, since no snapshot can be taken. Raises `why` if it is another error."""
    if why.reason not in _REFUSALS:
        raise why
    missed = Missed(due.slot, covered.sandbox_id, _REFUSALS[why.reason], why.message[:MESSAGE_MOST])
    return _missing(worked(schedule, covered, due, None), ((missed, 1),))


def busy(schedule: Schedule, covered: Covered, due: Due) -> Worked:
    """Returns what is recorded of a slot that is missed, since the snapshot of the one before is still being taken."""
    message = f"the snapshot {covered.snapshot_id} of the slot before is still being taken"
    missed = Missed(due.slot, covered.sandbox_id, MissedReason.BUSY, message)
    return _missing(worked(schedule, covered, due, None), ((missed, 1),))


def settled(schedule: Schedule, covered: Covered, snapshot: Snapshot | None) -> Worked | None:
    """Returns what is recorded once it is known what became of the snapshot of a slot; None before that.

    `snapshot` is the one that now has its id; None if there is none. One that a caller has deleted was not missed.
    """
    if covered.snapshot_slot is None:
        return None
    mine = snapshot if snapshot is not None and snapshot.uid == covered.snapshot_uid else None
    if mine is not None and mine.state is State.CREATING:
        return None
    known = Worked(schedule, replace(covered, snapshot_id="", snapshot_uid="", snapshot_slot=None))
    if mine is None or mine.state is not State.FAILED:
        return known
    message = f"{mine.id}: {mine.reason.name}: {mine.message}"[:MESSAGE_MOST]
    return _missing(known, ((Missed(covered.snapshot_slot, covered.sandbox_id, MissedReason.FAILED, message), 1),))


def _missing(done: Worked, missed: tuple[tuple[Missed, int], ...]) -> Worked:
    """Returns what is recorded with further slots that were missed, in their order."""
    schedule = done.schedule
    for one, count in missed:
        schedule = replace(schedule, missed=schedule.missed + count, last_missed=one)
    return replace(done, schedule=schedule, missed=(*done.missed, *missed))


def surplus(schedule: Schedule, sandbox_uid: str, snapshots: Iterable[Snapshot], now: datetime) -> list[Snapshot]:
    """Returns those of the snapshots of a sandbox that a schedule does not keep any more, the oldest first.

    One that is LOST stays: it may only be out of sight. One from a clock that was ahead counts as older than all others.
    The newest one of which a verification has PASSED stays, and so does one while it is verified.
    """
    mine = [one for one in snapshots if (one.schedule_uid, one.sandbox_uid) == (schedule.uid, sandbox_uid)]
    until = now + _SKEW
    mine = sorted(
        (one for one in mine if not one.before_delete),
        key=lambda one: (one.create_time <= until, one.create_time, one.id),
    )
    ready = [one for one in mine if one.state is State.READY]
    if not ready:
        return []
    before = mine[: mine.index(ready[-1])]
    failed = [one for one in before if one.state is State.FAILED and one.reason is not SnapshotReason.LOST]
    passed = [one.uid for one in ready if _passed(one)]
    over = [one for one in ready[: -schedule.keep] if one.uid not in passed[-1:] and not one.verifies]
    gone = {one.uid for one in (*over, *failed)}
    return [one for one in mine if one.uid in gone]


def _passed(snapshot: Snapshot) -> bool:
    """Whether the last verification of a snapshot has PASSED."""
    return snapshot.verification is not None and snapshot.verification.result is VerificationState.PASSED
