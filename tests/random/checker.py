"""What must hold after a random run: for the log, each watcher, the answers to callers, and the processes."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient, Kind
from sandbox_client.watch import Event

from tests.random.traffic import Ledger, Watcher
from tests.support.marked import programs
from tests.support.service import Service

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
    assert sum(one.generation for one in last.values()) <= ledger.requests


def check_watcher(watcher: Watcher, log: list[pb.SandboxStatus]) -> None:
    """The events of a watcher are the log after its snapshot, and its snapshot is the log before."""
    history = watcher.history
    (synced,) = [number for number, one in enumerate(history) if one.kind is Kind.SYNCED]
    start = history[synced].sequence
    expected = [one for one in log if one.sequence > start and watcher.matches(one)]
    heard = [one for one in history if one.kind is Kind.CHANGE]
    assert [one.sequence for one in heard] == [one.sequence for one in expected]
    assert [_written(one) for one in heard] == [one.SerializeToString(deterministic=True) for one in expected]
    latest = {one.sandbox_id: one for one in log[:start] if watcher.matches(one)}
    for one in history[:synced]:
        assert one.kind is Kind.SNAPSHOT
        assert one.status is not None
        assert _written(one) == latest.pop(one.status.sandbox_id).SerializeToString(deterministic=True)
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


def _written(event: Event) -> bytes:
    assert event.status is not None
    return event.status.SerializeToString(deterministic=True)


async def check_ground(client: AsyncClient, service: Service, log: list[pb.SandboxStatus]) -> None:
    """Rows, directories and processes one to one; a kept disk and nothing else where one was kept."""
    rows = {one.sandbox_id: one async for one in client.list()}
    latest = {one.sandbox_id: one for one in log}
    kept = {name for name, one in latest.items() if one.reason == pb.REASON_VOLUME_KEPT}
    folders = {path.name: {entry.name for entry in path.iterdir()} for path in service.sandboxes()}
    assert set(folders) == {*rows, *kept}, (
        set(folders) ^ {*rows, *kept},
        {one: str(rows.get(one) or latest.get(one)) for one in set(folders) ^ {*rows, *kept}},
        folders,
    )
    assert all(folders[name] == {"volume"} for name in kept)
    running = sorted(name for name, one in rows.items() if one.desired_state == pb.DESIRED_STATE_RUNNING)
    end = time.monotonic() + 10
    while (found := sorted(programs().values())) != running and time.monotonic() < end:
        await asyncio.sleep(0.1)
    assert found == running
    for name, row in rows.items():
        assert _written(Event(Kind.CHANGE, 0, row.status)) == latest[name].SerializeToString(deterministic=True)
    said = service.log.read_text()
    assert not [word for word in ("Traceback", "reconcile_failed", "local_sandbox_failed") if word in said]


class Disks:
    """What was on each disk when it was first seen: only its removal may cost that."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.born: dict[str, str] = {}

    def look(self) -> None:
        for folder in self.service.sandboxes():
            uid, born = _label(folder), _read(folder / "volume" / "home" / "born")
            # Checked twice: in between, the disk may have belonged to another sandbox.
            if uid and uid == _label(folder) and (born or uid in self.born):
                assert self.born.setdefault(uid, born) == born, f"{folder} was emptied"


def _label(folder: Path) -> str:
    told = _read(folder / "volume" / "volume.json")
    return str(json.loads(told)["uid"]) if told else ""


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
