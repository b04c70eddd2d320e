"""What becomes of a verification, and what is done about it."""

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from sandbox_server.domain import errors
from sandbox_server.domain.snapshot import Contents, Scratch, Snapshot, SnapshotReason, State, Verification
from sandbox_server.domain.snapshot import VerificationState as V
from sandbox_server.domain.verifications import Decision, Facts, Step, asked, busy, decide

from tests.support import samples

R = SnapshotReason
NOTHING = Scratch(is_there=False)
PART = Scratch(is_there=True)
COUNTING = Scratch(is_there=True, state=V.RUNNING, reason=R.COUNTING, message="counts")
FOUND = Contents(files=1, folders=2, links=3, others=4, bytes=5, sha256="a" * 64)
OTHER = dataclasses.replace(FOUND, sha256="b" * 64)
COUNTED = Scratch(is_there=True, state=V.PASSED, contents=FOUND)
FAILED = Scratch(is_there=True, state=V.FAILED, reason=R.NO_SPACE, message="no room")
LATER = samples.NOW + timedelta(seconds=10)


def snapshot(**changes: Any) -> Snapshot:
    """A snapshot that is READY, and was just asked to be verified."""
    return asked(samples.snapshot(state=State.READY, reason=R.READY, **changes))


def running(one: Snapshot, **changes: Any) -> Snapshot:
    assert one.verification is not None
    return dataclasses.replace(one, verification=dataclasses.replace(one.verification, **changes))


def decided(
    one: Snapshot, scratch: Scratch, *, has_turn: bool = True, deadline: float = 60
) -> tuple[Verification, Step | None]:
    found = decide(one, Facts(scratch=scratch, has_turn=has_turn, deadline=deadline, now=LATER))
    assert found.snapshot.verification is not None
    return found.snapshot.verification, found.step


def test_only_a_ready_snapshot_is_verified_and_one_that_is_verified_stays_as_it_is() -> None:
    for one in (samples.snapshot(), samples.snapshot(state=State.READY, asked_to_go=True)):
        with pytest.raises(errors.FailedPrecondition, match="wait for SNAPSHOT_STATE_READY"):
            asked(one)
    begun = running(snapshot(), reason=R.COUNTING)
    assert asked(begun) == begun
    ended = running(begun, state=V.PASSED)
    assert asked(ended) == snapshot()


def test_what_is_not_asked_for_is_left_alone() -> None:
    one = samples.snapshot(state=State.READY)
    facts = Facts(scratch=COUNTING, has_turn=True, deadline=60, now=LATER)
    assert decide(one, facts) == Decision(one)
    ended = running(snapshot(), state=V.FAILED)
    assert decide(ended, facts) == Decision(ended)
    assert busy(ended, "no answer") == ended


def test_it_waits_for_its_turn_and_its_time_counts_from_then_on() -> None:
    waits, step = decided(snapshot(), NOTHING, has_turn=False)
    assert (waits.reason, waits.start_time, step) == (R.ACCEPTED, None, None)
    begun, step = decided(running(snapshot(), start_time=None), NOTHING, deadline=1)
    assert (begun.state, begun.reason, begun.start_time, step) == (V.RUNNING, R.RESTORING, LATER, Step.BEGIN)


@pytest.mark.parametrize("scratch", [NOTHING, PART])
def test_what_is_missing_of_a_scratch_is_begun(scratch: Scratch) -> None:
    begun, step = decided(running(snapshot(), start_time=samples.NOW), scratch)
    assert (begun.start_time, step) == (samples.NOW, Step.BEGIN)


def test_what_the_engine_shows_is_told() -> None:
    shown, step = decided(snapshot(), COUNTING)
    assert (shown.reason, shown.message, shown.start_time, step) == (R.COUNTING, "counts", LATER, None)
    said = busy(running(snapshot(), start_time=LATER), "no answer").verification
    assert said is not None
    assert (said.state, said.reason, said.message) == (V.RUNNING, R.BUSY, "no answer")


@pytest.mark.parametrize(
    ("one", "scratch", "result", "reason"),
    [
        (snapshot(), COUNTED, V.PASSED, R.VERIFIED),
        (snapshot(contents=FOUND), COUNTED, V.PASSED, R.VERIFIED),
        (snapshot(contents=OTHER), COUNTED, V.FAILED, R.MISMATCH),
        (snapshot(), FAILED, V.FAILED, R.NO_SPACE),
        (running(snapshot(), start_time=samples.NOW), COUNTING, V.FAILED, R.VERIFICATION_DEADLINE),
        (dataclasses.replace(snapshot(), asked_to_go=True), COUNTING, V.FAILED, R.DELETING),
        (dataclasses.replace(snapshot(), state=State.FAILED, reason=R.LOST), COUNTING, V.FAILED, R.LOST),
    ],
)
def test_the_result_is_recorded_before_the_scratch_goes_and_shown_after_that(
    one: Snapshot, scratch: Scratch, result: V, reason: SnapshotReason
) -> None:
    facts = Facts(scratch=scratch, has_turn=True, deadline=5, now=LATER)
    clearing = decide(one, facts)
    shown = clearing.snapshot.verification
    assert shown is not None
    assert (shown.state, shown.reason, clearing.step) == (V.RUNNING, R.CLEARING, Step.CLEAR)
    assert (shown.result, shown.result_reason, shown.end_time) == (result, reason, LATER)
    # Whatever the scratch shows from then on, also after a crash: the result stays.
    assert decide(clearing.snapshot, dataclasses.replace(facts, scratch=PART)) == clearing
    ended = decide(clearing.snapshot, dataclasses.replace(facts, scratch=NOTHING))
    last = ended.snapshot.verification
    assert last is not None
    assert (last.state, last.reason, last.message, ended.step) == (result, reason, shown.result_message, None)


def test_what_was_counted_first_is_kept_and_a_mismatch_says_both() -> None:
    facts = Facts(scratch=COUNTED, has_turn=True, deadline=5, now=LATER)
    assert decide(snapshot(), facts).snapshot.contents == FOUND
    mismatch = decide(snapshot(contents=OTHER), facts).snapshot
    assert mismatch.contents == OTHER
    assert mismatch.verification is not None
    assert mismatch.verification.contents == FOUND
    assert FOUND.sha256 in mismatch.verification.message
    assert OTHER.sha256 in mismatch.verification.message
    failed = decide(snapshot(contents=OTHER), dataclasses.replace(facts, scratch=FAILED)).snapshot
    assert failed.contents == OTHER


def test_a_snapshot_that_goes_without_a_scratch_needs_none_removed() -> None:
    ended, step = decided(dataclasses.replace(snapshot(), asked_to_go=True), NOTHING)
    assert (ended.state, ended.reason, step) == (V.FAILED, R.DELETING, None)
