"""What must hold after a random run: for the log, each watcher and the answers to callers."""

from collections.abc import Collection, Sequence
from typing import Any

from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import Kind
from sandbox_client.watch import Event

from tests.robustness.traffic import Ledger, Mutation, Watcher

SETTLED = {
    pb.PHASE_RUNNING: pb.DESIRED_STATE_RUNNING,
    pb.PHASE_STOPPED: pb.DESIRED_STATE_STOPPED,
    pb.PHASE_TERMINATED: pb.DESIRED_STATE_DELETED,
}


def check_log(log: list[pb.SandboxStatus], ledger: Ledger) -> None:
    """Each sandbox by itself: mutations in order, none lost and none doubled; nothing settled that is not desired."""
    last: dict[str, pb.SandboxStatus] = {}
    current: dict[str, pb.SandboxStatus] = {}
    for one in log:
        before = last.get(one.uid)
        former = current.get(one.sandbox_id)
        if before is None:
            assert one.generation == 1
            assert former is None or former.phase == pb.PHASE_TERMINATED
        else:
            # A Delete without keep_volume removes the disk that an earlier one kept.
            assert before.phase != pb.PHASE_TERMINATED or before.reason == pb.REASON_VOLUME_KEPT
            assert one.generation - before.generation in ((1,) if before.phase == pb.PHASE_TERMINATED else (0, 1))
        if one.phase in SETTLED:
            desired = ledger.desired.get((one.uid, one.generation))
            assert desired in (None, SETTLED[one.phase])
        last[one.uid] = current[one.sandbox_id] = one
    for uid, generation in ledger.acknowledged.items():
        assert last[uid].generation >= generation
    assert sum(one.generation for one in last.values()) <= len(ledger.mutations)


DESIRED = {
    "CreateSandbox": pb.DESIRED_STATE_RUNNING,
    "Start": pb.DESIRED_STATE_RUNNING,
    "Stop": pb.DESIRED_STATE_STOPPED,
    "Delete": pb.DESIRED_STATE_DELETED,
}
"""What a mutation makes the desired state. An update of the environment leaves it as it is."""


def check_mutations(events: Sequence[pb.Event], ledger: Ledger, unsure: Collection[str]) -> None:
    """The history against the model: each request took effect at most once, as it was answered, and in an order that agrees
    with the times at which callers asked and were answered."""
    effects: dict[str, pb.Event] = {}
    before: dict[str, pb.SandboxStatus] = {}
    for event in events:
        status, cause = event.status, event.cause
        former = before.get(status.uid)
        before[status.uid] = status
        if cause.kind != pb.CAUSE_KIND_MUTATION:
            assert former is not None, f"an observation made a sandbox: {event}"
            unchanged = (former.generation, former.desired_state) == (status.generation, status.desired_state)
            assert unchanged, f"an observation changed what is desired: {event}"
            continue
        assert cause.request_id not in effects, f"a request took effect twice: {effects[cause.request_id]} {event}"
        effects[cause.request_id] = event
        mutation = ledger.mutations[cause.request_id]
        assert (cause.method, status.sandbox_id) == (mutation.method, mutation.name), f"{mutation} {event}"
        assert status.generation == (1 if former is None else former.generation + 1), f"{former} {event}"
        held = former.desired_state if former is not None else pb.DESIRED_STATE_RUNNING
        assert status.desired_state == DESIRED.get(cause.method, held), f"{former} {event}"
        assert mutation.expected in (0, status.generation - 1), f"{mutation} {event}"
    for request_id, mutation in ledger.mutations.items():
        effect = effects.get(request_id)
        if mutation.refused and request_id not in unsure:
            assert effect is None, f"refused, and yet it took effect: {mutation} {effect}"
        if mutation.answer is None:
            continue
        # Without an effect it changed nothing, and was answered with a status that there was.
        told = mutation.answer.status
        assert told.uid in before, f"acknowledged, and lost: {mutation}"
        if effect is not None:
            assert effect.status.uid == told.uid, f"{mutation} {effect}"
            assert effect.sequence <= told.sequence, f"{mutation} {effect}"
            assert effect.status.generation <= told.generation, f"{mutation} {effect}"
    _check_order([(effect.sequence, ledger.mutations[request_id]) for request_id, effect in effects.items()])


def _check_order(effects: list[tuple[int, Mutation]]) -> None:
    """No mutation is before another in the log that was answered before it was asked for."""
    latest: Mutation | None = None
    for _, mutation in sorted(effects, key=lambda one: one[0]):
        if latest is not None and mutation.answer is not None:
            assert mutation.ended > latest.begun, f"in the log after one that came later: {latest} {mutation}"
        if latest is None or mutation.begun > latest.begun:
            latest = mutation


def check_watcher(watcher: Watcher, log: list[pb.SandboxStatus]) -> None:
    """The events of a watcher are the log after its snapshot, and its snapshot is the log before."""
    history = watcher.history
    (synced,) = [number for number, one in enumerate(history) if one.kind is Kind.SYNCED]
    start = history[synced].sequence
    expected = [one for one in log if one.sequence > start and watcher.matches(one)]
    heard = [one for one in history if one.kind is Kind.CHANGE]
    assert [one.sequence for one in heard] == [one.sequence for one in expected]
    assert [written(one) for one in heard] == [one.SerializeToString(deterministic=True) for one in expected]
    latest = {one.sandbox_id: one for one in log[:start] if watcher.matches(one)}
    for one in history[:synced]:
        assert one.kind is Kind.SNAPSHOT
        assert one.status is not None
        assert written(one) == latest.pop(one.status.sandbox_id).SerializeToString(deterministic=True)
    assert {one.phase for one in latest.values()} <= {pb.PHASE_TERMINATED}


def check_changes(watcher: Watcher) -> None:
    """Each event names exactly the fields that differ from the event of the sandbox before it."""
    latest: dict[str, pb.SandboxStatus] = {}
    for one in watcher.history:
        if one.status is None:
            continue
        former = latest.get(one.status.uid)
        if one.kind is Kind.CHANGE and former is not None:
            assert one.changed is not None
            assert set(one.changed) == differing(former, one.status)
        latest[one.status.uid] = one.status


def differing(former: pb.SandboxStatus, status: pb.SandboxStatus) -> set[str]:
    """The fields that differ, without the sequence."""

    def value(of: pb.SandboxStatus, field: Any) -> Any:
        return getattr(of, field.name), field.has_presence and of.HasField(field.name)

    fields = [one for one in status.DESCRIPTOR.fields if one.name != "sequence"]
    return {one.name for one in fields if value(former, one) != value(status, one)}


def written(event: Event) -> bytes:
    assert event.status is not None
    return event.status.SerializeToString(deterministic=True)
