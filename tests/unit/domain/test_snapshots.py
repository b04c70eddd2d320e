"""The decisions about a snapshot, as a table."""

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from sandbox_server.domain.phase import DesiredState, Phase
from sandbox_server.domain.sandbox import Key, LastSnapshot, Origin, Sandbox, VolumeStatus
from sandbox_server.domain.snapshot import Consistency, Snapshot, SnapshotReason, State, Taken
from sandbox_server.domain.snapshots import Act, Facts, decide, moved, needs

from tests.support import samples

LATER = samples.NOW + timedelta(seconds=5)
SANDBOX = samples.sandbox(uid="box", volume_uid="disk", start_generation=1)
STOPPED = dataclasses.replace(
    SANDBOX, desired=DesiredState.STOPPED, status=samples.status(phase=Phase.STOPPED), generation=2
)
GOING = dataclasses.replace(SANDBOX, desired=DesiredState.DELETED)
AWAITING = dataclasses.replace(GOING, last_snapshot=LastSnapshot("soon"))
NOTHING = Taken(state=State.DELETED, reason=SnapshotReason.DELETED)
PART = Taken(state=State.CREATING, reason=SnapshotReason.ACCEPTED)
COPYING = Taken(state=State.CREATING, reason=SnapshotReason.COPYING, message="half")
READY = Taken(state=State.READY, reason=SnapshotReason.READY, message="whole", used_bytes=7)
FULL = Taken(state=State.FAILED, reason=SnapshotReason.NO_SPACE, message="full")
GONE = Taken(state=State.FAILED, reason=SnapshotReason.STORAGE_FAILED, message="broken")

S, R = State, SnapshotReason


def snapshot(state: State = S.CREATING, **changes: Any) -> Snapshot:
    fields: dict[str, Any] = {
        "uid": "snap",
        "sandbox_uid": "box",
        "volume_uid": "disk",
        "state": state,
        "reason": R.ACCEPTED,
        "start_generation": 1,
    }
    defaults = {"consistency": Consistency.CRASH, "outlives_sandbox": False, "asked_to_go": False}
    return samples.snapshot(**(fields | defaults | changes))


def facts(taken: Taken, sandbox: Sandbox | None = SANDBOX, *, needed_by: str = "") -> Facts:
    return Facts(taken=taken, sandbox=sandbox, needed_by=needed_by, now=LATER)


CRASH = snapshot()
COLD = snapshot(consistency=Consistency.STOPPED)
LOST = snapshot(S.FAILED, reason=R.LOST)
KEPT = snapshot(outlives_sandbox=True)
ASKED = {"asked_to_go": True}
REPLACED = dataclasses.replace(SANDBOX, volume_uid="another")
STARTED = dataclasses.replace(STOPPED, desired=DesiredState.RUNNING)
AGAIN = dataclasses.replace(STOPPED, start_generation=3, generation=4)
STOPPING = dataclasses.replace(STOPPED, status=samples.status(phase=Phase.STOPPING))

TABLE = [
    # Taken step by step.
    (CRASH, facts(NOTHING), (S.CREATING, R.ACCEPTED, Act.TAKE)),
    (CRASH, facts(PART), (S.CREATING, R.ACCEPTED, Act.TAKE)),
    (CRASH, facts(COPYING), (S.CREATING, R.COPYING, None)),
    (CRASH, facts(READY), (S.READY, R.READY, None)),
    (CRASH, facts(FULL), (S.FAILED, R.NO_SPACE, Act.DISCARD)),
    # The disk.
    (CRASH, facts(NOTHING, REPLACED), (S.FAILED, R.DISK_GONE, None)),
    (KEPT, facts(NOTHING, None), (S.FAILED, R.DISK_GONE, None)),
    (KEPT, facts(PART, None), (S.FAILED, R.DISK_GONE, Act.DISCARD)),
    (KEPT, facts(COPYING, None), (S.CREATING, R.COPYING, None)),
    (KEPT, facts(READY, None), (S.READY, R.READY, None)),
    # Of a stopped sandbox.
    (COLD, facts(NOTHING, STOPPED), (S.CREATING, R.ACCEPTED, Act.TAKE)),
    (COLD, facts(READY, STOPPED), (S.READY, R.READY, None)),
    (COLD, facts(NOTHING, STARTED), (S.FAILED, R.NOT_STOPPED, None)),
    (COLD, facts(COPYING, STARTED), (S.FAILED, R.NOT_STOPPED, Act.DISCARD)),
    (COLD, facts(READY, AGAIN), (S.FAILED, R.NOT_STOPPED, Act.DISCARD)),
    (snapshot(consistency=Consistency.STOPPED, start_generation=3), facts(READY, AGAIN), (S.READY, R.READY, None)),
    (COLD, facts(NOTHING, STOPPING), (S.FAILED, R.NOT_STOPPED, None)),
    # That a disk is not there counts before what has run since.
    (COLD, facts(FULL, STARTED), (S.FAILED, R.NO_SPACE, Act.DISCARD)),
    # Once it is there.
    (snapshot(S.READY), facts(READY), (S.READY, R.ACCEPTED, None)),
    (snapshot(S.READY, consistency=Consistency.STOPPED), facts(READY, STARTED), (S.READY, R.ACCEPTED, None)),
    (snapshot(S.READY), facts(NOTHING), (S.FAILED, R.LOST, None)),
    (snapshot(S.READY), facts(GONE), (S.FAILED, R.LOST, None)),
    (LOST, facts(NOTHING), (S.FAILED, R.LOST, None)),
    (LOST, facts(GONE), (S.FAILED, R.LOST, None)),
    (LOST, facts(READY), (S.READY, R.READY, None)),
    (snapshot(S.FAILED), facts(NOTHING), (S.FAILED, R.ACCEPTED, None)),
    (snapshot(S.FAILED), facts(READY), (S.FAILED, R.ACCEPTED, Act.DISCARD)),
    # On its way out.
    (snapshot(S.READY, **ASKED), facts(READY), (S.DELETING, R.DELETING, Act.DISCARD)),
    (snapshot(S.READY, **ASKED), facts(READY, needed_by="other"), (S.DELETING, R.DELETING, None)),
    (snapshot(S.DELETING, **ASKED), facts(READY, needed_by="other"), (S.DELETING, R.DELETING, None)),
    (snapshot(S.CREATING, **ASKED), facts(COPYING), (S.DELETING, R.DELETING, Act.DISCARD)),
    (snapshot(S.FAILED, **ASKED), facts(FULL), (S.DELETING, R.DELETING, Act.DISCARD)),
    (snapshot(S.DELETING, **ASKED), facts(PART), (S.DELETING, R.DELETING, Act.DISCARD)),
    (snapshot(S.DELETING, **ASKED), facts(NOTHING), (S.DELETED, R.DELETED, None)),
    (snapshot(S.DELETED, **ASKED), facts(READY), (S.DELETED, R.ACCEPTED, None)),
    # With its sandbox.
    (snapshot(S.READY), facts(READY, None), (S.DELETING, R.DELETING, Act.DISCARD)),
    (snapshot(S.READY), facts(READY, GOING), (S.DELETING, R.DELETING, Act.DISCARD)),
    (CRASH, facts(NOTHING, GOING), (S.DELETED, R.DELETED, None)),
    (snapshot(S.READY), facts(READY, AWAITING), (S.READY, R.ACCEPTED, None)),
    (snapshot(S.READY, **ASKED), facts(READY, AWAITING), (S.DELETING, R.DELETING, Act.DISCARD)),
    (snapshot(S.READY, outlives_sandbox=True), facts(READY, None), (S.READY, R.ACCEPTED, None)),
    (snapshot(S.READY, outlives_sandbox=True), facts(READY, GOING), (S.READY, R.ACCEPTED, None)),
]


@pytest.mark.parametrize(("before", "at", "expected"), TABLE)
def test_what_becomes_of_a_snapshot(
    before: Snapshot, at: Facts, expected: tuple[State, SnapshotReason, Act | None]
) -> None:
    decision = decide(before, at)
    after = decision.snapshot
    assert (after.state, after.reason, decision.act) == expected
    assert after.transition_time == (before.transition_time if after.state is before.state else LATER)
    # Decided again on the same facts, it stays as it is.
    assert decide(after, at).snapshot == after


def test_a_ready_snapshot_says_when_and_how_large() -> None:
    after = decide(CRASH, facts(READY)).snapshot
    assert (after.ready_time, after.used_bytes, after.message) == (LATER, 7, "whole")


@pytest.mark.parametrize(
    ("told", "size"), [("", "5Gi"), ("3Gi", "5Gi"), ("5120Mi", "5Gi"), ("7Gi", "7Gi"), ("x", "5Gi")]
)
def test_a_disk_needs_the_size_that_the_storage_says_where_that_is_more(told: str, size: str) -> None:
    assert decide(CRASH, facts(dataclasses.replace(READY, size=told))).snapshot.size == size


def test_a_message_is_bounded() -> None:
    assert len(moved(CRASH, S.FAILED, R.STORAGE_FAILED, "x" * 10**6, LATER).message) == 4096


def test_a_snapshot_is_needed_until_the_disk_is_made() -> None:
    origin = Origin("snap", Key("default", "demo-1"), "disk")
    made = samples.sandbox("other", origin=origin, volume_uid="")
    bound, unbound = (VolumeStatus("other", "1Gi", there) for there in (True, False))
    assert needs(made, "snap")
    assert not needs(made, "another")
    assert not needs(dataclasses.replace(made, origin=None), "snap")
    assert not needs(dataclasses.replace(made, desired=DesiredState.DELETED), "snap")
    seen = dataclasses.replace(made, volume_uid="new")
    assert needs(dataclasses.replace(seen, status=samples.status(volume=unbound)), "snap")
    assert not needs(dataclasses.replace(seen, status=samples.status(volume=bound)), "snap")
    assert not needs(dataclasses.replace(seen, status=samples.status(volume=None)), "snap")


def test_what_keeps_a_snapshot_that_is_to_go_is_told() -> None:
    held = Taken(state=State.DELETING, reason=SnapshotReason.DELETING, message="its finalizers: a")
    assert decide(snapshot(State.DELETING, asked_to_go=True), facts(held)).snapshot.message == "its finalizers: a"
