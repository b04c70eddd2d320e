"""What each mutation makes of a snapshot, and whether it may."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from sandbox_server.domain import check, errors
from sandbox_server.domain.phase import DesiredState, Phase
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.snapshot import Consistency, Snapshot, SnapshotReason, State


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a caller asks for: a snapshot of the disk of `sandbox`. `id` is empty if the service is to choose it."""

    id: str
    sandbox: Key
    consistency: Consistency
    outlives_sandbox: bool
    labels: Mapping[str, str]


def made_id(sandbox_id: str, suffix: str) -> str:
    """Returns an id for a snapshot whose caller gave none: `<sandbox>-snapshot-<suffix>`, the sandbox cut to make it valid."""
    left = check.ID_MOST - len("-snapshot-") - len(suffix)
    return f"{sandbox_id[:left].rstrip('-')}-snapshot-{suffix}"


def not_found(snapshot_id: str) -> errors.NotFound:
    """Returns the same error for a snapshot that never existed and for one of another tenant."""
    message = f"there is no snapshot {snapshot_id!r}: check its id and namespace"
    return errors.NotFound("SNAPSHOT_NOT_FOUND", message, snapshot_id=snapshot_id)


def copied(sandbox: Sandbox) -> None:
    """Raises `errors.FailedPrecondition` unless there is a disk of a sandbox that can be copied."""
    if sandbox.desired is DesiredState.DELETED:
        raise errors.FailedPrecondition(
            "SANDBOX_DELETED", f"the sandbox {sandbox.id!r} was deleted: take snapshots before, or of another"
        )
    if not sandbox.volume_uid:
        raise errors.FailedPrecondition(
            "NO_DISK", f"the sandbox {sandbox.id!r} has no disk yet: repeat when its volume is bound"
        )
    if sandbox.moves:
        raise errors.FailedPrecondition(
            "FILES_MOVING",
            f"the files of the sandbox {sandbox.id!r} are still being moved to its disk, so that no copy of that has them: wait for "
            "PHASE_RUNNING or PHASE_STOPPED",
        )


def new(wanted: Wanted, snapshot_id: str, uid: str, sandbox: Sandbox, now: datetime) -> Snapshot:
    """Returns a snapshot that was just asked for. Raises `errors.FailedPrecondition` if there is nothing to take it of."""
    copied(sandbox)
    stopped = sandbox.desired is DesiredState.STOPPED and sandbox.status.phase is Phase.STOPPED
    if wanted.consistency is Consistency.STOPPED and not stopped:
        raise errors.FailedPrecondition(
            "SANDBOX_NOT_STOPPED",
            f"the sandbox {sandbox.id!r} is not stopped: stop it and wait for PHASE_STOPPED, or ask for CONSISTENCY_CRASH",
        )
    return made(wanted, snapshot_id, uid, sandbox, now)


def made(wanted: Wanted, snapshot_id: str, uid: str, sandbox: Sandbox, now: datetime) -> Snapshot:
    """Returns a snapshot of a disk that there is."""
    volume = sandbox.status.volume
    return Snapshot(
        id=snapshot_id,
        namespace=sandbox.namespace,
        tenant=sandbox.tenant,
        uid=uid,
        sandbox_id=sandbox.id,
        sandbox_uid=sandbox.uid,
        volume_uid=sandbox.volume_uid,
        project=sandbox.spec.project,
        size=(volume.size if volume else "") or sandbox.spec.storage.size,
        home_folder=sandbox.home_folder,
        consistency=wanted.consistency,
        outlives_sandbox=wanted.outlives_sandbox,
        labels=wanted.labels,
        create_time=now,
        state=State.CREATING,
        reason=SnapshotReason.ACCEPTED,
        message="accepted",
        transition_time=now,
        start_generation=sandbox.start_generation,
        storage_class=sandbox.spec.storage.storage_class,
        access_mode=sandbox.spec.storage.access_mode,
    )


def possible(missing: str) -> None:
    """Raises `errors.FailedPrecondition` if no snapshot can be taken. `missing`: why; empty if one can."""
    if missing:
        raise errors.FailedPrecondition("SNAPSHOTS_UNSUPPORTED", missing)


def admit(tenant: str, missing: str, count: int, most: int) -> None:
    """Permits another snapshot to a tenant that has `count` of at most `most`. `missing`: why none can be taken; empty if one can.

    Raises `errors.FailedPrecondition` and `errors.ResourceExhausted`.
    """
    possible(missing)
    if count >= most:
        raise errors.ResourceExhausted(
            "TOO_MANY_SNAPSHOTS",
            f"the tenant {tenant!r} has {most} snapshots, as many as it may: delete some",
            limit=str(most),
        )


def free(former: Snapshot | None) -> None:
    """Raises `errors.AlreadyExists` unless the snapshot that last had an id is DELETED."""
    if former is not None and former.state is not State.DELETED:
        raise errors.AlreadyExists(
            "SNAPSHOT_EXISTS",
            f"the id {former.id!r} is taken: choose another, or delete it and wait for SNAPSHOT_STATE_DELETED",
        )


def delete(before: Snapshot, now: datetime) -> Snapshot:
    """The snapshot is to go. One that goes already stays as it is."""
    if before.asked_to_go or before.state is State.DELETED:
        return before
    since = before.transition_time if before.state is State.DELETING else now
    return replace(
        before,
        asked_to_go=True,
        state=State.DELETING,
        reason=SnapshotReason.DELETING,
        message="being removed",
        transition_time=since,
    )
