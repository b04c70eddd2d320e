"""The RPCs: each reads its request, asks the manager, and gives the fields of its answer."""

import asyncio
import functools
from collections.abc import Awaitable
from typing import Any, TypeVar

from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server import feed, manager
from sandbox_server.domain import errors
from sandbox_server.domain.event import Event
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.tenant import Tenant
from sandbox_server.rpc import convert, listing, render
from sandbox_server.rpc.auth import Caller
from sandbox_server.settings import Settings

CALL_MOST = 30.0
"""Seconds that a unary call may take, whatever its caller allows: no answer needs nearly as long."""

T = TypeVar("T")
Fields = dict[str, Any]
"""An answer's. GetStatus and ListSandboxes give the bytes of their answer: the first is written once for all callers, the
second has to know its size. A stream gives none."""


async def in_time(caller: Caller, work: Awaitable[T]) -> T:
    """What `work` comes to. Raises `errors.DeadlineExceeded` where that takes longer than the call may."""
    remaining = caller.time_remaining()
    try:
        async with asyncio.timeout(CALL_MOST if remaining is None else min(remaining, CALL_MOST)):
            return await work
    except TimeoutError:
        raise errors.DeadlineExceeded(
            "DEADLINE_EXCEEDED", "the call's time ran out: repeat it, a mutation with the same request_id"
        ) from None


class Servicer:
    """One method for each RPC, by the name that the contract gives it."""

    def __init__(self, sandboxes: manager.StatefulSetManager, settings: Settings) -> None:
        """Raises `errors.Invalid` for defaults that no spec could have."""
        self._manager = sandboxes
        convert.spec(pb.SandboxSpec(project="any", image=settings.default_image or "any"), settings)
        self._settings = settings

    async def CreateSandbox(self, tenant: Tenant, request: pb.CreateSandboxRequest, caller: Caller) -> Fields:
        key, spec, env = convert.creation(tenant, request, self._settings)
        wish = convert.wish(tenant, key, request)
        unset = convert.unset_storage(request.spec.storage)
        return await self._told(caller, self._manager.create(wish, spec, env, request.adopt_volume, unset))

    async def Start(self, tenant: Tenant, request: pb.StartRequest, caller: Caller) -> Fields:
        wish = convert.change(tenant, request)
        return await self._told(caller, self._manager.start(wish, request.accept_data_loss))

    async def Stop(self, tenant: Tenant, request: pb.StopRequest, caller: Caller) -> Fields:
        return await self._told(caller, self._manager.stop(convert.change(tenant, request)))

    async def Delete(self, tenant: Tenant, request: pb.DeleteRequest, caller: Caller) -> Fields:
        wish = convert.change(tenant, request)
        return await self._told(caller, self._manager.delete(wish, request.keep_volume))

    async def UpdateEnvVars(self, tenant: Tenant, request: pb.UpdateEnvVarsRequest, caller: Caller) -> Fields:
        wish = convert.change(tenant, request)
        changed = self._manager.update_env(wish, request.set, request.unset, request.replace)
        return await self._told(caller, changed)

    async def GetStatus(self, tenant: Tenant, request: pb.GetStatusRequest, caller: Caller) -> Fields | bytes:
        last = await self._seen(tenant, request, caller)
        stale = self._manager.stale(last.event.sandbox.namespace)
        return {"status": render.status(last.event, stale=True)} if stale else last.status

    async def GetSandbox(self, tenant: Tenant, request: pb.GetSandboxRequest, caller: Caller) -> Fields:
        last = await self._seen(tenant, request, caller)
        return {"sandbox": self._whole(last.event)}

    async def ListSandboxes(self, tenant: Tenant, request: pb.ListSandboxesRequest, caller: Caller) -> bytes:
        selection, phases, after = convert.listed(tenant, request)
        whole = functools.partial(self._whole, basic=request.view == pb.SANDBOX_VIEW_BASIC)
        page = listing.writer(request.page_size or manager.PAGE_DEFAULT, whole)
        return await in_time(caller, self._manager.list(selection, phases, after, page, request.volume_kept))

    async def WatchStatus(self, tenant: Tenant, request: pb.WatchStatusRequest, caller: Caller) -> None:
        await self._manager.watch(*convert.watched(tenant, request), caller.write)

    async def _told(self, caller: Caller, wished: Awaitable[Event]) -> Fields:
        return {"sandbox": self._whole(await in_time(caller, wished))}

    def _whole(self, event: Event, basic: bool = False) -> Any:
        return render.whole(event, self._manager.stale(event.sandbox.namespace), basic)

    async def _seen(self, tenant: Tenant, request: convert.Read, caller: Caller) -> feed.Encoded:
        # What has this name is named well: to judge it would be most of the cost of a read.
        key = Key(request.namespace or tenant.namespaces[0], request.sandbox_id)
        if found := self._manager.find(tenant, key, request.min_sequence):
            return found
        key = convert.read(tenant, request)
        try:
            return await in_time(caller, self._manager.get(tenant, key, request.min_sequence))
        except errors.DeadlineExceeded:
            if request.min_sequence <= self._manager.sequence:
                raise
            said = "this replica has not seen min_sequence yet: repeat the call"
            raise errors.DeadlineExceeded("SEQUENCE_NOT_SEEN", said) from None
