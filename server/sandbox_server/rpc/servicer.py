"""The RPCs: each converts its request, calls the manager and returns the fields of its answer."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server import feed, manager
from sandbox_server.access.files import Files
from sandbox_server.access.sandboxes import Sandboxes
from sandbox_server.domain import errors
from sandbox_server.domain.event import Event
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.policy import Policy
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key
from sandbox_server.rpc import (
    batches,
    capabilities,
    convert,
    deadlines,
    events,
    filters,
    listing,
    render,
    updates,
    usage,
    volumes,
    waits,
)
from sandbox_server.rpc.auth import Caller
from sandbox_server.rpc.calls import Fields
from sandbox_server.rpc.capabilities import Deployment
from sandbox_server.settings import Defaults
from sandbox_server.snapshots.manager import SnapshotManager

T = TypeVar("T")


class Servicer:
    """Implements SandboxService; see `calls.Servicer`."""

    described = pb.DESCRIPTOR.services_by_name["SandboxService"]
    endless = frozenset({"WatchStatus"})

    def __init__(
        self,
        sandboxes: manager.StatefulSetManager,
        entered: Sandboxes,
        files: Files,
        snapshots: SnapshotManager,
        defaults: Defaults,
        policy: Policy,
        pace: Pace,
        deployment: Deployment,
    ) -> None:
        """Raises `errors.Invalid` if the defaults do not make a valid spec."""
        convert.spec(pb.SandboxSpec(project="any", image=defaults.default_image or "any"), defaults)
        self._manager = sandboxes
        self._entered = entered
        self._files = files
        self._snapshots = snapshots
        self._defaults = defaults
        self._policy = policy
        self._pace = pace
        self._deployment = deployment

    async def CreateSandbox(self, principal: Principal, request: pb.CreateSandboxRequest, caller: Caller) -> Fields:
        key, spec, env = convert.creation(principal, request, self._defaults, self._policy)
        mutation = convert.mutation(principal, key, request)
        unset = convert.unset_storage(request.spec.storage)
        created = self._manager.create(mutation, spec, env, request.adopt_volume, unset, request.snapshot_id)
        return await self._answer(caller, created)

    async def CloneSandbox(self, principal: Principal, request: pb.CloneSandboxRequest, caller: Caller) -> Fields:
        mutation, clone = convert.cloning(principal, request)
        missing = await self._in_time(caller, self._snapshots.missing(mutation.key.namespace))
        return await self._answer(caller, self._manager.clone(mutation, clone, missing))

    async def Start(self, principal: Principal, request: pb.StartRequest, caller: Caller) -> Fields:
        mutation = convert.change(principal, request)
        return await self._answer(caller, self._manager.start(mutation, request.accept_data_loss))

    async def Stop(self, principal: Principal, request: pb.StopRequest, caller: Caller) -> Fields:
        mutation = convert.change(principal, request)
        return await self._answer(caller, self._manager.stop(mutation))

    async def Delete(self, principal: Principal, request: pb.DeleteRequest, caller: Caller) -> Fields:
        mutation = convert.change(principal, request)
        return await self._answer(caller, self._manager.delete(mutation, request.keep_volume))

    async def UpdateEnvVars(self, principal: Principal, request: pb.UpdateEnvVarsRequest, caller: Caller) -> Fields:
        mutation = convert.change(principal, request)
        updated = self._manager.update_env(mutation, request.set, request.unset, request.replace)
        return await self._answer(caller, updated)

    async def UpdateSandbox(self, principal: Principal, request: pb.UpdateSandboxRequest, caller: Caller) -> Fields:
        mutation = convert.change(principal, request, updates.violations(request, self._defaults, self._policy))
        change = functools.partial(updates.changed, request, self._defaults)
        event = await self._in_time(caller, self._manager.update(mutation, change))
        return {"sandbox": self._whole(event)} | updates.progress(request.update_mask.paths, event.sandbox)

    async def BatchStart(self, principal: Principal, request: pb.BatchStartRequest, caller: Caller) -> bytes:
        return await self._batch(principal, request, caller, lambda one: self._manager.start(one, False))

    async def BatchStop(self, principal: Principal, request: pb.BatchStopRequest, caller: Caller) -> bytes:
        return await self._batch(principal, request, caller, self._manager.stop)

    async def BatchDelete(self, principal: Principal, request: pb.BatchDeleteRequest, caller: Caller) -> bytes:
        return await self._batch(principal, request, caller, lambda one: self._manager.delete(one, request.keep_volume))

    async def _batch(
        self, principal: Principal, request: convert.BatchRequest, caller: Caller, act: batches.Act
    ) -> bytes:
        asked = batches.asked(principal, request)
        found = await self._in_time(caller, batches.outcomes(self._manager, asked, act))
        return await batches.answer(found, self._manager.stale(asked.selection.namespace))

    async def GetStatus(self, principal: Principal, request: pb.GetStatusRequest, caller: Caller) -> Fields | bytes:
        last = await self._last(principal, request, caller)
        found = None
        if request.include_usage:
            key = last.event.sandbox.key
            found = await usage.measured(self._files, principal, key, self._pace.usage_within, caller)
            last = await self._last(principal, request, caller)
        stale = self._manager.stale(last.event.sandbox.namespace)
        if found is not None:
            status = render.status(last.event, stale) | {"usage": found.usage}
            return {"status": status, "usage_missing": found.missing}
        return {"status": render.status(last.event, stale=True)} if stale else last.status

    async def GetSandbox(self, principal: Principal, request: pb.GetSandboxRequest, caller: Caller) -> Fields:
        last = await self._last(principal, request, caller)
        return {"sandbox": self._whole(last.event)}

    async def ListSandboxes(self, principal: Principal, request: pb.ListSandboxesRequest, caller: Caller) -> bytes:
        selection, phases, after = filters.listed(principal, request)
        whole = functools.partial(self._whole, basic=request.view == pb.SANDBOX_VIEW_BASIC)
        page = listing.writer(request.page_size or manager.PAGE_DEFAULT, whole)
        return await self._in_time(caller, self._manager.list(selection, phases, after, page, request.volume_kept))

    async def WatchStatus(self, principal: Principal, request: pb.WatchStatusRequest, caller: Caller) -> None:
        selection, after = filters.watched(principal, request)
        await self._manager.watch(selection, after, caller.write, request.include_terminated)

    async def WaitForPhase(self, principal: Principal, request: pb.WaitForPhaseRequest, caller: Caller) -> bytes:
        key, awaited = waits.asked(principal, request)
        seconds = waits.seconds(request, caller.time_remaining())
        last, outcome = await self._in_time(caller, self._manager.wait(principal, key, awaited, seconds), seconds)
        return waits.answer(last, outcome, self._manager.stale(key.namespace))

    async def ListEvents(self, principal: Principal, request: pb.ListEventsRequest, caller: Caller) -> bytes:
        selection, cursor = events.asked(principal, request)
        page = events.writer(request.page_size or manager.PAGE_DEFAULT)
        return await self._in_time(caller, self._manager.events(principal, selection, cursor, page))

    async def ListVolumes(self, principal: Principal, request: pb.ListVolumesRequest, caller: Caller) -> bytes:
        selection, after = filters.listed_volumes(principal, request)
        page = volumes.writer(request.page_size or manager.PAGE_DEFAULT)
        listed = self._manager.list(selection, frozenset({Phase.TERMINATED}), after, page, volume_kept=True)
        return await self._in_time(caller, listed)

    async def DeleteVolume(self, principal: Principal, request: pb.DeleteVolumeRequest, caller: Caller) -> Fields:
        mutation = convert.volume_deletion(principal, request)
        return await self._answer(caller, self._manager.delete_volume(mutation, request.uid))

    async def GetCapabilities(self, principal: Principal, request: pb.GetCapabilitiesRequest, caller: Caller) -> Fields:
        async def all_of(ask: Callable[[str], Awaitable[T]]) -> dict[str, T]:
            asked = asyncio.gather(*map(ask, principal.namespaces))
            return dict(zip(principal.namespaces, await self._in_time(caller, asked), strict=True))

        readable, granted = await all_of(self._manager.readable), await all_of(self._entered.granted)
        missing = await all_of(self._snapshots.missing)
        return capabilities.answer(principal, self._deployment, self._pace, readable, granted, missing)

    async def _in_time(self, caller: Caller, work: Awaitable[T], waiting: float = 0.0) -> T:
        """Returns the result of `work`, of which `waiting` seconds are a wait that the caller asked for.

        Raises `errors.DeadlineExceeded` if it takes longer than the call may.
        """
        return await deadlines.within(self._pace.call_most + waiting, caller, work)

    async def _answer(self, caller: Caller, committed: Awaitable[Event]) -> Fields:
        """Returns the answer of a mutation, once it is committed."""
        return {"sandbox": self._whole(await self._in_time(caller, committed))}

    def _whole(self, event: Event, basic: bool = False) -> Any:
        return render.whole(event, self._manager.stale(event.sandbox.namespace), basic)

    async def _last(self, principal: Principal, request: convert.ReadRequest, caller: Caller) -> feed.Encoded:
        """Returns the last event of the sandbox. Raises `errors.NotFound`, `errors.Invalid`, `errors.DeadlineExceeded`."""
        # A name that is found is valid. Checking it first would be most of the cost of a read.
        key = Key(request.namespace or principal.default_namespace, request.sandbox_id)
        found = self._manager.find(principal, key, request.min_sequence)
        if found is not None:
            return found
        key = convert.read(principal, request)
        try:
            return await self._in_time(caller, self._manager.get(principal, key, request.min_sequence))
        except errors.DeadlineExceeded:
            if request.min_sequence <= self._manager.sequence:
                raise
            message = "this replica has not seen min_sequence yet: repeat the call"
            raise errors.DeadlineExceeded("SEQUENCE_NOT_SEEN", message) from None
