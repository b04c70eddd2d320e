"""The RPCs of SnapshotService."""

from collections.abc import Awaitable
from typing import TypeVar

from sandbox.v1 import snapshot_pb2 as pb

from sandbox_server.domain.pace import Pace
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.snapshot import SnapshotEvent
from sandbox_server.rpc import deadlines, snapshot_messages
from sandbox_server.rpc.auth import Caller
from sandbox_server.rpc.calls import Fields
from sandbox_server.snapshots.manager import SnapshotManager

T = TypeVar("T")


class SnapshotServicer:
    """Implements SnapshotService; see `calls.Servicer`."""

    described = pb.DESCRIPTOR.services_by_name["SnapshotService"]
    endless = frozenset({"WatchSnapshots"})

    def __init__(self, snapshots: SnapshotManager, pace: Pace) -> None:
        self._manager = snapshots
        self._pace = pace

    async def CreateSnapshot(self, principal: Principal, request: pb.CreateSnapshotRequest, caller: Caller) -> Fields:
        identity, wanted = snapshot_messages.creation(principal, request)
        return await self._answer(caller, self._manager.create(principal, identity, wanted))

    async def GetSnapshot(self, principal: Principal, request: pb.GetSnapshotRequest, caller: Caller) -> Fields:
        key = snapshot_messages.named(principal, request)
        return await self._answer(caller, self._manager.get(principal, key))

    async def ListSnapshots(self, principal: Principal, request: pb.ListSnapshotsRequest, caller: Caller) -> bytes:
        search, after = snapshot_messages.listed(principal, request)
        page = snapshot_messages.writer(request.page_size)
        return await self._in_time(caller, self._manager.list(search, after, page))

    async def DeleteSnapshot(self, principal: Principal, request: pb.DeleteSnapshotRequest, caller: Caller) -> Fields:
        identity, key = snapshot_messages.changed(principal, request)
        return await self._answer(caller, self._manager.delete(principal, identity, key))

    async def VerifySnapshot(self, principal: Principal, request: pb.VerifySnapshotRequest, caller: Caller) -> Fields:
        identity, key = snapshot_messages.changed(principal, request)
        return await self._answer(caller, self._manager.verify(principal, identity, key))

    async def WatchSnapshots(self, principal: Principal, request: pb.WatchSnapshotsRequest, caller: Caller) -> None:
        selection, after = snapshot_messages.watched(principal, request)
        await self._manager.watch(selection, after, snapshot_messages.Sender(caller))

    async def _in_time(self, caller: Caller, work: Awaitable[T]) -> T:
        """Returns the result of `work`. Raises `errors.DeadlineExceeded` if it takes longer than the call may."""
        return await deadlines.within(self._pace.call_most, caller, work)

    async def _answer(self, caller: Caller, found: Awaitable[SnapshotEvent]) -> Fields:
        return {"snapshot": snapshot_messages.whole(await self._in_time(caller, found))}
