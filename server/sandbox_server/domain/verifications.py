"""The course of a verification: `decide` says where it stands and what to do about it. Pure and level-triggered."""

import enum
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sandbox_server.domain import errors
from sandbox_server.domain.lifecycle import MESSAGE_MOST
from sandbox_server.domain.snapshot import (
    Contents,
    Scratch,
    Snapshot,
    SnapshotReason,
    State,
    Verification,
    VerificationState,
)


class Step(enum.Enum):
    """What the engine is to do."""

    BEGIN = "begin"
    CLEAR = "clear"


@dataclass(frozen=True, slots=True)
class Decision:
    """The snapshot with its verification as it is from now on, and what to do about it; None: nothing, or to wait."""

    snapshot: Snapshot
    step: Step | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a decision rests on beside the snapshot.

    - `scratch`: what the engine shows of it.
    - `has_turn`: whether the replica has room for another verification, or for this one already.
    - `deadline`: seconds that it may take from when it has begun.
    """

    scratch: Scratch
    has_turn: bool
    deadline: float
    now: datetime


_WAITS = "it waits for its turn: other snapshots are being verified"
_ACCEPTED = Verification(state=VerificationState.RUNNING, reason=SnapshotReason.ACCEPTED, message="accepted")


def asked(before: Snapshot) -> Snapshot:
    """Returns a snapshot that is to be verified. One that is being verified stays as it is.

    Raises `errors.FailedPrecondition` unless it is READY.
    """
    if before.state is not State.READY or before.asked_to_go:
        state = f"SNAPSHOT_STATE_{before.state.name}"
        raise errors.FailedPrecondition(
            "SNAPSHOT_NOT_READY",
            f"the snapshot {before.id!r} is in {state}: wait for SNAPSHOT_STATE_READY, or choose another",
            state=state,
        )
    return before if before.verifies else replace(before, verification=_ACCEPTED)


def decide(snapshot: Snapshot, at: Facts) -> Decision:
    """Returns what the verification of `snapshot` is and what to do about it: of one that runs, as `Snapshot.verifies` says."""
    running = snapshot.verification
    if running is None or not running.runs:
        return Decision(snapshot)
    if running.result is None:
        snapshot, running = _counted(snapshot, running, at)
    if running.result is not None:
        return _clearing(snapshot, running, at.scratch)
    if at.scratch.state is not None:
        shown = _moved(running, at.scratch.reason, at.scratch.message)
        return Decision(replace(snapshot, verification=replace(shown, start_time=running.start_time or at.now)))
    if not at.has_turn:
        return Decision(replace(snapshot, verification=_moved(running, SnapshotReason.ACCEPTED, _WAITS)))
    begun = _moved(running, SnapshotReason.RESTORING, "its disk is being made from the snapshot")
    begun = replace(begun, start_time=running.start_time or at.now)
    return Decision(replace(snapshot, verification=begun), Step.BEGIN)


def _counted(snapshot: Snapshot, running: Verification, at: Facts) -> tuple[Snapshot, Verification]:
    """Returns the snapshot and its verification with the result, if there is one now."""
    scratch = at.scratch
    if snapshot.asked_to_go:
        message = "the snapshot was deleted before its files were counted"
        return snapshot, _ended(running, SnapshotReason.DELETING, message, at.now)
    if snapshot.state is not State.READY:
        return snapshot, _ended(running, snapshot.reason, snapshot.message, at.now)
    if scratch.state is VerificationState.FAILED:
        return snapshot, _ended(running, scratch.reason, scratch.message, at.now)
    if scratch.state is VerificationState.PASSED and scratch.contents is not None:
        first = snapshot.contents or scratch.contents
        return replace(snapshot, contents=first), _compared(running, first, scratch.contents, at.now)
    begun = running.start_time
    if begun is not None and at.now - begun > timedelta(seconds=at.deadline):
        message = f"not done within {at.deadline:g} s; at last: {scratch.message or running.message}"
        return snapshot, _ended(running, SnapshotReason.VERIFICATION_DEADLINE, message, at.now)
    return snapshot, running


def _compared(running: Verification, first: Contents, found: Contents, now: datetime) -> Verification:
    running = replace(running, contents=found)
    if found != first:
        message = f"its files are not those that were counted first: {_words(found)} instead of {_words(first)}"
        return _ended(running, SnapshotReason.MISMATCH, message, now)
    passed = _ended(running, SnapshotReason.VERIFIED, f"restored and read: {_words(found)}", now)
    return replace(passed, result=VerificationState.PASSED)


def _words(found: Contents) -> str:
    entries = f"{found.files} files, {found.folders} folders, {found.links} links, {found.others} others"
    return f"{entries}, {found.bytes} bytes, SHA-256 {found.sha256}"


def _clearing(snapshot: Snapshot, running: Verification, scratch: Scratch) -> Decision:
    """The result is recorded before the scratch goes, and is shown as the state once that has gone."""
    if scratch.is_there:
        message = f"{running.result_message}; its scratch is being removed"
        after = replace(running, reason=SnapshotReason.CLEARING, message=message[:MESSAGE_MOST])
        return Decision(replace(snapshot, verification=after), Step.CLEAR)
    ended = replace(
        running,
        state=running.result or VerificationState.FAILED,
        reason=running.result_reason or SnapshotReason.STORAGE_FAILED,
        message=running.result_message,
    )
    return Decision(replace(snapshot, verification=ended))


def _ended(running: Verification, reason: SnapshotReason, message: str, now: datetime) -> Verification:
    return replace(
        running,
        result=VerificationState.FAILED,
        result_reason=reason,
        result_message=message[:MESSAGE_MOST],
        end_time=now,
    )


def _moved(running: Verification, reason: SnapshotReason, message: str) -> Verification:
    return replace(running, reason=reason, message=message[:MESSAGE_MOST])


def busy(snapshot: Snapshot, message: str) -> Snapshot:
    """Returns a snapshot whose verification the storage cannot go on with now."""
    running = snapshot.verification
    if running is None or not running.runs:
        return snapshot
    return replace(snapshot, verification=_moved(running, SnapshotReason.BUSY, message))
