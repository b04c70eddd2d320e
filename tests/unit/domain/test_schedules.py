"""What is due of a schedule, however the clock goes."""

import dataclasses
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox_server.domain import check, schedules
from sandbox_server.domain.phase import DesiredState
from sandbox_server.domain.schedule import Target
from sandbox_server.domain.snapshot import Snapshot, SnapshotReason, State, Verification, VerificationState

from tests.support import samples

SANDBOX = samples.sandbox(volume_uid="disk")
WHENS = st.sampled_from(["daily 02:00", "hourly :15", "weekly sun 02:00"])
JUMPS = st.lists(st.timedeltas(timedelta(days=-9), timedelta(days=9)), max_size=30)


@given(WHENS, JUMPS)
def test_each_slot_is_taken_or_missed_once_however_the_clock_jumps(when: str, jumps: list[timedelta]) -> None:
    schedule = samples.schedule(when=when, target=Target(SANDBOX.id))
    covered = schedules.begin(schedule, SANDBOX)
    slots = schedule.slots
    assert slots is not None
    now = latest = begin = covered.since
    taken = []
    for jump in jumps:
        # Set back by an interval at most.
        now = max(now + jump, latest - slots.every)
        if (due := schedules.due(schedule, covered, now)) is None:
            continue
        assert begin < due.slot <= now
        snapshot = schedules.taken(schedule, SANDBOX, due.slot, f"at-{due.slot:%Y%m%dt%H%M}", "uid", now)
        done = schedules.worked(schedule, covered, due, snapshot)
        schedule, covered = done.schedule, done.covered
        taken.append(due.slot)
        latest = max(latest, now)
    assert len(taken) == len(set(taken))
    assert schedule.last_slot == (taken[-1] if taken else None)
    # Those from the beginning to the latest moment that the clock showed, and no others.
    assert len(taken) + schedule.missed == slots.between(begin, slots.following(latest))


@given(WHENS, JUMPS, JUMPS)
def test_no_clock_stops_the_slots(when: str, before: list[timedelta], jumps: list[timedelta]) -> None:
    at = samples.NOW + sum(before, timedelta())
    schedule = samples.schedule(when=when, target=Target(SANDBOX.id), since=at)
    covered = schedules.begin(schedule, SANDBOX)
    slots = schedule.slots
    assert slots is not None
    now = samples.NOW
    for jump in jumps:
        now += jump
        if (due := schedules.due(schedule, covered, now)) is not None:
            covered = schedules.worked(schedule, covered, due, None).covered
            assert covered.slot == slots.latest(now)
            assert schedules.due(schedule, covered, now) is None
    for number in range(9):
        now = slots.following(now)
        due = schedules.due(schedule, covered, now)
        assert due is not None or number < 2
        if due is not None:
            covered = schedules.worked(schedule, covered, due, None).covered


@given(st.text("ab-", min_size=0, max_size=51), st.sampled_from(["", "deleted-"]))
@pytest.mark.slow
def test_ids_of_snapshots_are_valid_and_readable(rest: str, word: str) -> None:
    sandbox = samples.sandbox(f"a{rest}".rstrip("-"))
    plain, other = schedules.names(samples.schedule(), sandbox, samples.NOW, word)
    assert plain.endswith(f"-{word}20260102t0304")
    assert other.startswith(f"{other[: -len(word) - 21]}-{word}20260102t0304-")
    for one in (plain, other):
        assert [*check.sandbox_id("snapshot_id", one)] == []


def snapshots(*states: State, schedule_uid: str = "", before_delete: bool = False) -> list[Snapshot]:
    return [
        samples.snapshot(
            f"s-{number}",
            uid=f"uid-{number}",
            state=state,
            reason=SnapshotReason(state.value),
            create_time=samples.NOW + number * timedelta(days=1),
            schedule_uid=schedule_uid or samples.schedule().uid,
            before_delete=before_delete,
        )
        for number, state in enumerate(states)
    ]


def test_the_oldest_ready_ones_go_and_failed_ones_once_a_newer_is_ready() -> None:
    ready, failed, creating = State.READY, State.FAILED, State.CREATING

    def gone(keep: int, found: list[Snapshot], now: datetime = samples.NOW + timedelta(days=9)) -> list[str]:
        uid = found[0].sandbox_uid
        return [one.id for one in schedules.surplus(samples.schedule(keep=keep), uid, found, now)]

    assert gone(2, snapshots(ready, ready, creating)) == []
    assert gone(2, snapshots(ready, ready, ready)) == ["s-0"]
    assert gone(1, snapshots(ready, failed, failed)) == []
    assert gone(1, snapshots(failed, ready, failed, ready)) == ["s-0", "s-1", "s-2"]
    assert gone(1, snapshots(failed, failed)) == []
    assert gone(1, snapshots(ready, ready, schedule_uid="another")) == []
    assert gone(1, snapshots(ready, ready, before_delete=True)) == []
    # The third is from a clock that was ahead: it is not the newest, and the other two stay. Clocks may differ a little.
    back = samples.NOW + timedelta(days=1, hours=1)
    assert gone(2, snapshots(ready, ready, ready), back) == ["s-2"]
    assert gone(1, snapshots(ready, failed, failed), back) == ["s-2"]
    assert gone(1, snapshots(ready, ready), samples.NOW + timedelta(hours=23, minutes=59)) == ["s-0"]
    lost, *others = snapshots(failed, ready)
    assert gone(1, [dataclasses.replace(lost, reason=SnapshotReason.LOST), *others]) == []


def test_the_newest_one_that_was_verified_stays_and_one_that_is_being_verified() -> None:
    passed, failed, running = VerificationState.PASSED, VerificationState.FAILED, VerificationState.RUNNING

    def gone(*results: VerificationState | None, keep: int = 1) -> list[str]:
        found = [
            one if result is None else dataclasses.replace(one, verification=verified(result))
            for one, result in zip(snapshots(*[State.READY] * len(results)), results, strict=True)
        ]
        late = samples.NOW + timedelta(days=9)
        return [one.id for one in schedules.surplus(samples.schedule(keep=keep), found[0].sandbox_uid, found, late)]

    assert gone(passed, None, None) == ["s-1"]
    assert gone(passed, passed, failed) == ["s-0"]
    assert gone(passed, failed, passed) == ["s-0", "s-1"]
    assert gone(passed, running, None) == []
    assert gone(passed, running, passed) == ["s-0"]
    assert gone(failed, None, None, keep=2) == ["s-0"]


def verified(state: VerificationState) -> Verification:
    result = None if state is VerificationState.RUNNING else state
    return Verification(state=state, reason=SnapshotReason.VERIFIED, message="", result=result)


def test_a_deleted_sandbox_is_not_covered() -> None:
    schedule = samples.schedule(target=Target(SANDBOX.id))
    assert schedules.covers(schedule, SANDBOX)
    assert not schedules.covers(schedule, samples.sandbox(desired=DesiredState.DELETED))
    assert not schedules.covers(schedule, samples.sandbox(tenant="another"))
    assert not schedules.covers(schedule, samples.sandbox(namespace="elsewhere"))
