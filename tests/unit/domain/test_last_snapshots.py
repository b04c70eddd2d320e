"""What a deletion waits for, and what is refused of a disk that has not all files yet."""

import dataclasses

import pytest
from sandbox_server.domain import errors, last_snapshots, mutations, snapshot_mutations
from sandbox_server.domain.last_snapshots import Act
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import DesiredState, Reason
from sandbox_server.domain.sandbox import Adopted, Sandbox, VolumeStatus
from sandbox_server.domain.schedule import Target
from sandbox_server.domain.snapshot import SnapshotReason, State

from tests.support import samples

DELETED = samples.sandbox(desired=DesiredState.DELETED, volume_uid="disk")
BOUND = VolumeStatus("home", "1Gi", bound=True)
UNBOUND = dataclasses.replace(BOUND, bound=False)
POLICY = samples.schedule("policy", target=Target(DELETED.id), before_delete=True)


def test_a_deletion_waits_where_a_schedule_says_so() -> None:
    others = [
        samples.schedule("nightly", target=Target(DELETED.id)),
        dataclasses.replace(POLICY, target=Target("other")),
    ]
    assert last_snapshots.awaited(DELETED, others) == DELETED
    waiting = last_snapshots.awaited(DELETED, [*others, POLICY])
    assert waiting.last_snapshot is not None
    assert "policy" in waiting.last_snapshot.message
    bare = dataclasses.replace(DELETED, volume_uid="")
    assert last_snapshots.awaited(bare, [POLICY]) == bare


@pytest.mark.parametrize(
    ("reason", "volume", "snapshot", "goes_on"),
    [
        (Reason.LAST_SNAPSHOT, BOUND, None, False),
        (Reason.LAST_SNAPSHOT, None, None, True),
        (Reason.LAST_SNAPSHOT, UNBOUND, None, True),
        # What it has was not observed since it was deleted, or something may still run.
        (Reason.ACCEPTED, None, None, False),
        (Reason.POD_TERMINATING, UNBOUND, None, False),
        (Reason.LAST_SNAPSHOT, None, (State.CREATING, SnapshotReason.COPYING), False),
        (Reason.LAST_SNAPSHOT, UNBOUND, (State.CREATING, SnapshotReason.BUSY), True),
        (Reason.LAST_SNAPSHOT, UNBOUND, (State.FAILED, SnapshotReason.STORAGE_FAILED), True),
        (Reason.LAST_SNAPSHOT, BOUND, (State.FAILED, SnapshotReason.STORAGE_FAILED), False),
        (Reason.LAST_SNAPSHOT, BOUND, (State.FAILED, SnapshotReason.DISK_GONE), True),
    ],
)
def test_a_deletion_goes_on_without_a_disk(
    reason: Reason, volume: VolumeStatus | None, snapshot: tuple[State, SnapshotReason] | None, goes_on: bool
) -> None:
    waiting = last_snapshots.awaited(
        dataclasses.replace(DELETED, status=samples.status(reason=reason, volume=volume)), [POLICY]
    )
    assert waiting.last_snapshot is not None
    found = []
    if snapshot is not None:
        state, why = snapshot
        found = [samples.snapshot(sandbox_uid=DELETED.uid, before_delete=True, state=state, reason=why)]
    decision = last_snapshots.decide(waiting, [POLICY], found, samples.NOW, Pace())
    assert (decision.act is Act.RELEASE) is goes_on


def moves(sandbox: Sandbox) -> Sandbox:
    adopted = Adopted(uids=(), workload="{}", selector={}, container="agent", pod="former")
    return dataclasses.replace(sandbox, adopted=adopted)


def done(sandbox: Sandbox) -> Sandbox:
    assert sandbox.adopted is not None
    return dataclasses.replace(sandbox, adopted=dataclasses.replace(sandbox.adopted, moved=True))


def test_nothing_is_deleted_whose_files_are_not_on_its_disk_yet() -> None:
    moving = moves(DELETED)
    assert moving.moves
    assert last_snapshots.awaited(moving, []) == moving
    with pytest.raises(errors.FailedPrecondition) as refused:
        last_snapshots.awaited(moving, [POLICY])
    assert refused.value.reason == "FILES_MOVING"
    assert "before_delete of the schedule policy" in refused.value.message


def test_a_disk_that_has_not_all_files_yet_is_neither_copied_nor_kept() -> None:
    moving = moves(samples.sandbox(volume_uid="disk"))
    for act in (lambda: snapshot_mutations.copied(moving), lambda: mutations.delete(moving, keep_volume=True)):
        with pytest.raises(errors.FailedPrecondition) as refused:
            act()
        assert (refused.value.reason, "PHASE_RUNNING" in refused.value.message) == ("FILES_MOVING", True)
    assert mutations.delete(moving, keep_volume=False).desired is DesiredState.DELETED
    snapshot_mutations.copied(done(moving))
    assert mutations.delete(done(moving), keep_volume=True).keep_volume
