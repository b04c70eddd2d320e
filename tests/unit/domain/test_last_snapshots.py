"""What a deletion waits for."""

import dataclasses

import pytest
from sandbox_server.domain import errors, last_snapshots
from sandbox_server.domain.phase import DesiredState
from sandbox_server.domain.sandbox import Adopted
from sandbox_server.domain.schedule import Target

from tests.support import samples

DELETED = samples.sandbox(desired=DesiredState.DELETED, volume_uid="disk")
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


def test_nothing_is_deleted_whose_files_are_not_on_its_disk_yet() -> None:
    adopted = Adopted(uids=(), workload="{}", selector={}, container="agent", pod="former")
    moving = dataclasses.replace(DELETED, adopted=adopted)
    assert moving.moves
    assert last_snapshots.awaited(moving, []) == moving
    with pytest.raises(errors.FailedPrecondition) as refused:
        last_snapshots.awaited(moving, [POLICY])
    assert refused.value.reason == "FILES_MOVING"
    assert "before_delete of the schedule policy" in refused.value.message
