"""The messages of SnapshotService: from requests to domain values, and from events to answers."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from sandbox.v1 import sandbox_pb2
from sandbox.v1 import snapshot_pb2 as pb

from sandbox_server import manager, store
from sandbox_server.domain import check, remedy
from sandbox_server.domain.errors import Violation
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.snapshot import Consistency, Snapshot, SnapshotEvent, State
from sandbox_server.domain.snapshot_mutations import Wanted
from sandbox_server.rpc import convert, filters, listing, render
from sandbox_server.rpc.auth import Caller
from sandbox_server.snapshots.watch import Selection

CONSISTENCIES = {pb.CONSISTENCY_UNSPECIFIED: Consistency.CRASH} | {one.value: one for one in Consistency}
_STATES = {one.value: one for one in State}


def creation(principal: Principal, request: pb.CreateSnapshotRequest) -> tuple[store.Request | None, Wanted]:
    """Returns the identity of the request, and what it asks for.

    Raises `errors.Invalid`, and `errors.NotFound` for another tenant's namespace.
    """
    with convert.collecting() as found:
        found += check.request_id("request_id", request.request_id)
        found += check.sandbox_id("snapshot_id", request.snapshot_id)
        found += check.sandbox_id("sandbox_id", request.sandbox_id, True)
        found += convert.bad_namespace(principal, request.namespace)
        found += check.labels("labels", request.labels)
        found += bad_consistency(request.consistency)
    key = principal.key(request.namespace, request.sandbox_id)
    consistency = CONSISTENCIES[request.consistency]
    wanted = Wanted(request.snapshot_id, key, consistency, request.outlives_sandbox, dict(request.labels))
    return convert.identity(principal, request), wanted


def bad_consistency(consistency: int) -> Iterator[Violation]:
    """Yields the violation of what a snapshot is to promise."""
    if consistency not in CONSISTENCIES:
        yield Violation("consistency", f"must be {' or '.join(pb.Consistency.keys()[1:])}, or unset")


def named(
    principal: Principal,
    request: pb.GetSnapshotRequest | pb.DeleteSnapshotRequest | pb.VerifySnapshotRequest,
    violations: tuple[Violation, ...] = (),
) -> Key:
    """Returns the key of the snapshot that a request names.

    Raises `errors.Invalid` with `violations` and every other bad field. In another tenant's namespace there is no snapshot: the
    key is of one that the principal does not see.
    """
    with convert.collecting() as found:
        found += violations
        found += check.sandbox_id("snapshot_id", request.snapshot_id, True)
        found += convert.bad_namespace(principal, request.namespace)
    return Key(request.namespace or principal.default_namespace, request.snapshot_id)


def changed(
    principal: Principal, request: pb.DeleteSnapshotRequest | pb.VerifySnapshotRequest
) -> tuple[store.Request | None, Key]:
    """Returns the identity of the request, and the key of the snapshot. Raises as `named`."""
    key = named(principal, request, check.request_id("request_id", request.request_id))
    return convert.identity(principal, request), key


def listed(principal: Principal, request: pb.ListSnapshotsRequest) -> tuple[store.SnapshotSearch, Key | None]:
    """Returns what to list, and the key that the page begins after. Raises `errors.Invalid`."""
    with convert.collecting() as found:
        for index, state in enumerate(request.states[: len(_STATES)]):
            if state not in _STATES:
                found.append(Violation(f"states[{index}]", "must be a state"))
        if len(request.states) > len(_STATES):
            found.append(Violation("states", f"must have at most {len(_STATES)} states"))
        found += filters.bad_page_size(request.page_size)
        found += check.sandbox_id("sandbox_id", request.sandbox_id)
        found += check.sandbox_id("schedule_id", request.schedule_id)
        labels, after = filters.matching(principal, request, found)
    selection = Selection(
        principal, None, request.namespace, request.sandbox_id, request.project, labels, request.tenant
    )
    search = selection.search(frozenset(_STATES[one] for one in request.states))
    return dataclasses.replace(search, schedule_id=request.schedule_id), after


def watched(principal: Principal, request: pb.WatchSnapshotsRequest) -> tuple[Selection, int | None]:
    """Returns what to watch, and the sequence to resume after: None to begin with what there is. Raises `errors.Invalid`."""
    after = request.after_sequence if request.HasField("after_sequence") else None
    with convert.collecting() as found:
        found += check.sandbox_id("snapshot_id", request.snapshot_id)
        found += check.sandbox_id("sandbox_id", request.sandbox_id)
        if after is not None and after < 0:
            found.append(Violation("after_sequence", "must not be negative"))
        labels = filters.label_selector(principal, request, found, names_sandboxes=bool(request.snapshot_id))
    key = None
    if request.snapshot_id:
        key = Key(request.namespace or principal.default_namespace, request.snapshot_id)
    selection = Selection(
        principal, key, request.namespace, request.sandbox_id, request.project, labels, request.tenant
    )
    return selection, after


def whole(event: SnapshotEvent) -> Any:
    """Returns the Snapshot message of an event."""
    snapshot = event.snapshot
    return {
        "snapshot_id": snapshot.id,
        "namespace": snapshot.namespace,
        "uid": snapshot.uid,
        "tenant": snapshot.tenant,
        "sandbox_id": snapshot.sandbox_id,
        "sandbox_uid": snapshot.sandbox_uid,
        "project": snapshot.project,
        "labels": snapshot.labels,
        "state": snapshot.state.value,
        "reason": snapshot.reason.value,
        "remedy": remedy.of_snapshot(snapshot.reason).value,
        "message": snapshot.message,
        "size": snapshot.size,
        "consistency": snapshot.consistency.value,
        "outlives_sandbox": snapshot.outlives_sandbox,
        "create_time": render.time(snapshot.create_time),
        "transition_time": render.time(snapshot.transition_time),
        "ready_time": None if snapshot.ready_time is None else render.time(snapshot.ready_time),
        "used_bytes": snapshot.used_bytes,
        "sequence": event.sequence,
        "schedule_id": snapshot.schedule_id,
        "verification": _verification(snapshot),
    }


def _verification(snapshot: Snapshot) -> Any:
    """Returns the Verification message of a snapshot; None if it was never verified."""
    last, first = snapshot.verification, snapshot.contents
    if last is None:
        return None
    counted = {} if last.contents is None else dataclasses.asdict(last.contents)
    return {
        "state": last.state.value,
        "reason": last.reason.value,
        "remedy": remedy.of_snapshot(last.reason).value,
        "message": last.message,
        "start_time": None if last.start_time is None else render.time(last.start_time),
        "end_time": None if last.end_time is None else render.time(last.end_time),
        "expected_sha256": "" if first is None else first.sha256,
        **counted,
    }


def writer(most: int) -> Callable[[int, Iterator[SnapshotEvent]], bytes]:
    """Returns a function that encodes a page of at most `most` snapshots, fewer if they are large.

    It is called on the thread that reads them.
    """

    def encoded(event: SnapshotEvent) -> bytes:
        # Protobuf reads concatenated messages as one message with all their entries.
        return pb.ListSnapshotsResponse(snapshots=[whole(event)]).SerializeToString()

    def write(sequence: int, found: Iterator[SnapshotEvent]) -> bytes:
        page = listing.filled(most or manager.PAGE_DEFAULT, found, encoded)
        following = page.last.snapshot.key if page.more and page.last is not None else None
        rest = pb.ListSnapshotsResponse(next_page_token=filters.page_token(following), sequence=sequence)
        return b"".join((*page.written, rest.SerializeToString()))

    return write


class Sender:
    """Sends the messages of WatchSnapshots to a caller."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def event(self, event: SnapshotEvent) -> None:
        """Sends a snapshot as it is with an event."""
        await self._send(sequence=event.sequence, snapshot=whole(event))

    async def complete(self, sequence: int, count: int, heartbeat: float) -> None:
        """Says that the snapshots that there are were sent. `heartbeat` is in seconds."""
        await self._send(sequence=sequence, complete={"count": count, "heartbeat_seconds": heartbeat})

    async def heartbeat(self, sequence: int) -> None:
        """Says that the watch is alive."""
        await self._send(sequence=sequence, heartbeat=sandbox_pb2.Heartbeat())

    async def _send(self, **fields: Any) -> None:
        await self._caller.write(pb.WatchSnapshotsResponse(**fields).SerializeToString())
