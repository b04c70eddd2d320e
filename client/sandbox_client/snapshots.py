"""The calls about snapshots of disks, and those that make a sandbox from a disk."""

import uuid
from collections.abc import Iterable, Mapping

import grpc
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import snapshot_pb2

from sandbox_client import calls, errors, retry, words

PAUSE = 0.1
PAUSE_MOST = 2.0
"""Seconds between two looks at a snapshot that is waited for: the first, and at most."""

NamedSnapshot = str | snapshot_pb2.Snapshot
"""A snapshot by its id, or as an answer of the service, which has its namespace too."""


def state(name: str | int) -> "snapshot_pb2.SnapshotState.ValueType":
    """Returns a state by its number, or its name with or without SNAPSHOT_STATE_. Raises ValueError for an unknown name."""
    if isinstance(name, int):
        return name  # type: ignore[return-value]
    return snapshot_pb2.SnapshotState.Value("SNAPSHOT_STATE_" + name.upper().removeprefix("SNAPSHOT_STATE_"))


def target(snapshot: NamedSnapshot, namespace: str) -> tuple[str, str]:
    """Returns the id of a snapshot, and `namespace` or else the namespace that the snapshot comes with."""
    if isinstance(snapshot, str):
        return snapshot, namespace
    return snapshot.snapshot_id, namespace or snapshot.namespace


def create_snapshot(
    sandbox: calls.Named,
    *,
    snapshot_id: str = "",
    stopped: bool = False,
    outlives_sandbox: bool = False,
    labels: Mapping[str, str] | None = None,
    namespace: str = "",
    request_id: str = "",
    timeout: float | None = None,
) -> calls.Call[snapshot_pb2.Snapshot]:
    """Takes a snapshot of the disk of a sandbox.

    `stopped`: of a sandbox that is stopped, so that no file in it is half written.

    >>> made = client.create("demo", command=["sleep", "1000"])
    >>> running = client.wait_until(made, "RUNNING")
    >>> snapshot = client.wait_for_snapshot(client.create_snapshot(made))
    >>> restored = client.create("demo", snapshot_id=snapshot.snapshot_id, command=["sleep", "1000"])
    >>> client.wait_until(restored, "RUNNING").message
    'the pod is ready'
    """
    sandbox_id, namespace = calls.target(sandbox, namespace)
    request = snapshot_pb2.CreateSnapshotRequest(
        request_id=request_id or str(uuid.uuid4()),
        namespace=namespace,
        snapshot_id=snapshot_id,
        sandbox_id=sandbox_id,
        consistency=snapshot_pb2.CONSISTENCY_STOPPED if stopped else snapshot_pb2.CONSISTENCY_CRASH,
        outlives_sandbox=outlives_sandbox,
        labels=labels or {},
    )
    return calls.Call("CreateSnapshot", request, "snapshot", timeout)


def get_snapshot(
    snapshot: NamedSnapshot, *, namespace: str = "", timeout: float | None = None
) -> calls.Call[snapshot_pb2.Snapshot]:
    """Returns a snapshot as it is now."""
    snapshot_id, namespace = target(snapshot, namespace)
    request = snapshot_pb2.GetSnapshotRequest(snapshot_id=snapshot_id, namespace=namespace)
    return calls.Call("GetSnapshot", request, "snapshot", timeout)


def delete_snapshot(
    snapshot: NamedSnapshot, *, namespace: str = "", request_id: str = "", timeout: float | None = None
) -> calls.Call[snapshot_pb2.Snapshot]:
    """Removes a snapshot. It goes once no disk is being made from it."""
    snapshot_id, namespace = target(snapshot, namespace)
    request = snapshot_pb2.DeleteSnapshotRequest(
        request_id=request_id or str(uuid.uuid4()), snapshot_id=snapshot_id, namespace=namespace
    )
    return calls.Call("DeleteSnapshot", request, "snapshot", timeout)


def verify_snapshot(
    snapshot: NamedSnapshot, *, namespace: str = "", request_id: str = "", timeout: float | None = None
) -> calls.Call[snapshot_pb2.Snapshot]:
    """Restores a snapshot into a scratch disk, and counts and hashes what is on it. `verification` of the snapshot has the result.

    >>> made = client.create("demo", command=["sleep", "1000"])
    >>> running = client.wait_until(made, "RUNNING")
    >>> snapshot = client.wait_for_snapshot(client.create_snapshot(made))
    >>> verified = client.wait_for_verification(client.verify_snapshot(snapshot))
    >>> len(verified.verification.sha256)
    64
    """
    snapshot_id, namespace = target(snapshot, namespace)
    request = snapshot_pb2.VerifySnapshotRequest(
        request_id=request_id or str(uuid.uuid4()), snapshot_id=snapshot_id, namespace=namespace
    )
    return calls.Call("VerifySnapshot", request, "snapshot", timeout)


def snapshots_page(
    sandbox_id: str = "",
    *,
    namespace: str = "",
    project: str = "",
    label_selector: str = "",
    states: Iterable[str | int] = (),
    schedule_id: str = "",
    tenant: str = "",
    page_size: int = 0,
    page_token: str = "",
    timeout: float | None = None,
) -> calls.Call[snapshot_pb2.ListSnapshotsResponse]:
    """Returns a page of snapshots and the token of the next page. `tenant` is for operators."""
    request = snapshot_pb2.ListSnapshotsRequest(
        namespace=namespace,
        sandbox_id=sandbox_id,
        project=project,
        label_selector=label_selector,
        states=[state(one) for one in states],
        schedule_id=schedule_id,
        tenant=tenant,
        page_size=page_size,
        page_token=page_token,
    )
    return calls.Call("ListSnapshots", request, "", timeout)


def watch_request(
    snapshot: NamedSnapshot,
    namespace: str,
    sandbox_id: str,
    project: str,
    label_selector: str,
    after_sequence: int | None,
    tenant: str,
) -> snapshot_pb2.WatchSnapshotsRequest:
    """Returns the first request of a watch of snapshots."""
    snapshot_id, namespace = target(snapshot, namespace)
    return snapshot_pb2.WatchSnapshotsRequest(
        snapshot_id=snapshot_id,
        namespace=namespace,
        sandbox_id=sandbox_id,
        project=project,
        label_selector=label_selector,
        after_sequence=after_sequence,
        tenant=tenant,
    )


def clone(
    sandbox: calls.Named,
    *,
    clone_id: str = "",
    project: str = "",
    set: Mapping[str, str] | None = None,  # noqa: A002 - the contract's name
    unset: Iterable[str] = (),
    replace: bool = False,
    labels: Mapping[str, str] | None = None,
    namespace: str = "",
    request_id: str = "",
    timeout: float | None = None,
) -> calls.Call[pb.Sandbox]:
    """Creates a sandbox with a copy of the disk of another, and with its spec and environment but for what is given here.

    >>> made = client.create("demo", command=["sleep", "1000"])
    >>> running = client.wait_until(made, "RUNNING")
    >>> clone = client.clone(made, set={"COLOUR": "blue"})
    >>> client.wait_until(clone, "RUNNING").message
    'the pod is ready'
    """
    sandbox_id, namespace = calls.target(sandbox, namespace)
    request = pb.CloneSandboxRequest(
        request_id=request_id or str(uuid.uuid4()),
        sandbox_id=sandbox_id,
        namespace=namespace,
        clone_id=clone_id,
        project=project,
        set=set or {},
        unset=unset,
        replace=replace,
        labels=labels or {},
    )
    return calls.Call("CloneSandbox", request, "sandbox", timeout)


class _Looks:
    """Looks at a snapshot again and again, with longer and longer pauses."""

    def __init__(self, timeout: float | None) -> None:
        self._end = retry.end_after(timeout)
        self._pause = PAUSE

    def in_time(self, message: str) -> None:
        """Raises `errors.TimedOut` with a message if the time is over."""
        if retry.seconds_until(self._end) == 0:
            raise errors.TimedOut(message, grpc.StatusCode.DEADLINE_EXCEEDED)

    def pause(self) -> float:
        """Returns the seconds until the next look."""
        seconds, self._pause = self._pause, min(self._pause * 2, PAUSE_MOST)
        left = retry.seconds_until(self._end)
        return seconds if left is None else min(seconds, left)


class Wait(_Looks):
    """A wait for a state of a snapshot."""

    def __init__(self, wanted: str | int, timeout: float | None) -> None:
        super().__init__(timeout)
        self._wanted = state(wanted)

    def over(self, snapshot: snapshot_pb2.Snapshot) -> bool:
        """Whether a snapshot has the state. Raises `errors.SnapshotFailed` if it will not have it, and `errors.TimedOut`."""
        if snapshot.state == self._wanted:
            return True
        # A FAILED one can only be deleted, and a DELETED one is the last.
        going = self._wanted in (snapshot_pb2.SNAPSHOT_STATE_DELETING, snapshot_pb2.SNAPSHOT_STATE_DELETED)
        ended = snapshot.state > snapshot_pb2.SNAPSHOT_STATE_READY and not going
        if ended or snapshot.state == snapshot_pb2.SNAPSHOT_STATE_DELETED:
            raise errors.SnapshotFailed(snapshot)
        wanted = words.short(snapshot_pb2.SnapshotState, self._wanted)
        self.in_time(f"{snapshot.snapshot_id} is not {wanted} within the time: {described(snapshot)}")
        return False


class Verified(_Looks):
    """A wait for the end of the verification of a snapshot."""

    def over(self, snapshot: snapshot_pb2.Snapshot) -> bool:
        """Whether it has passed. Raises `errors.VerificationFailed` if it has not, or there is none, and `errors.TimedOut`."""
        last = snapshot.verification
        if last.state == snapshot_pb2.VERIFICATION_STATE_PASSED:
            return True
        if last.state != snapshot_pb2.VERIFICATION_STATE_RUNNING:
            raise errors.VerificationFailed(snapshot)
        reason = words.short(snapshot_pb2.SnapshotReason, last.reason)
        self.in_time(f"{snapshot.snapshot_id} is not verified within the time: it is {reason}: {last.message}")
        return False


def described(snapshot: snapshot_pb2.Snapshot) -> str:
    """Returns where a snapshot stands, in words."""
    found = words.short(snapshot_pb2.SnapshotState, snapshot.state)
    return f"it is {found}: {words.short(snapshot_pb2.SnapshotReason, snapshot.reason)}: {snapshot.message}"
