"""The RPCs: each reads its request, asks the manager, and gives the fields of its answer."""

from typing import Any

from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server import feed, manager
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.tenant import Tenant
from sandbox_server.rpc import convert, render
from sandbox_server.rpc.convert import Caller
from sandbox_server.settings import Settings

Fields = dict[str, Any]
"""An answer's. GetStatus gives its answer as it is written, once for all its callers; a stream gives none."""


class Servicer:
    """One method for each RPC, by the name that the contract gives it."""

    def __init__(self, sandboxes: manager.StatefulSetManager, settings: Settings) -> None:
        """Raises `errors.Invalid` for defaults that no spec could have."""
        self._manager = sandboxes
        convert.spec(pb.SandboxSpec(project="any", image=settings.default_image or "any"), settings)
        self._settings = settings

    async def CreateSandbox(self, tenant: Tenant, request: pb.CreateSandboxRequest, caller: Caller) -> Fields:
        key, spec, env = convert.creation(tenant, request, self._settings)
        wish = convert.wish(tenant, key, request, caller)
        return self._told(await self._manager.create(wish, spec, env, request.adopt_volume))

    async def Start(self, tenant: Tenant, request: pb.StartRequest, caller: Caller) -> Fields:
        wish = convert.change(tenant, request, caller)
        return self._told(await self._manager.start(wish, request.accept_data_loss))

    async def Stop(self, tenant: Tenant, request: pb.StopRequest, caller: Caller) -> Fields:
        return self._told(await self._manager.stop(convert.change(tenant, request, caller)))

    async def Delete(self, tenant: Tenant, request: pb.DeleteRequest, caller: Caller) -> Fields:
        wish = convert.change(tenant, request, caller)
        return self._told(await self._manager.delete(wish, request.keep_volume))

    async def UpdateEnvVars(self, tenant: Tenant, request: pb.UpdateEnvVarsRequest, caller: Caller) -> Fields:
        wish = convert.change(tenant, request, caller)
        return self._told(await self._manager.update_env(wish, request.set, request.unset, request.replace))

    async def GetStatus(self, tenant: Tenant, request: pb.GetStatusRequest, caller: Caller) -> Fields | bytes:
        change = await self._seen(tenant, request, caller)
        stale = self._manager.stale(change.sandbox.namespace)
        return {"status": render.status(change.sandbox, stale=True)} if stale else change.status

    async def GetSandbox(self, tenant: Tenant, request: pb.GetSandboxRequest, caller: Caller) -> Fields:
        change = await self._seen(tenant, request, caller)
        return self._told(change.sandbox)

    async def ListSandboxes(self, tenant: Tenant, request: pb.ListSandboxesRequest, _caller: Caller) -> Fields:
        found, following = await self._manager.list(*convert.listed(tenant, request))
        return {
            "sandboxes": [self._whole(one) for one in found],
            "next_page_token": convert.page_token(following),
            "sequence": self._manager.sequence,
        }

    async def WatchStatus(self, tenant: Tenant, request: pb.WatchStatusRequest, caller: Caller) -> None:
        await self._manager.watch(tenant, *convert.watched(tenant, request), caller.write)

    def _told(self, sandbox: Sandbox) -> Fields:
        return {"sandbox": self._whole(sandbox)}

    def _whole(self, sandbox: Sandbox) -> Any:
        return render.whole(sandbox, self._manager.stale(sandbox.namespace))

    async def _seen(self, tenant: Tenant, request: convert.Read, caller: Caller) -> feed.Change:
        # What has this name is named well: to judge it would be most of the cost of a read.
        key = Key(request.namespace or tenant.namespaces[0], request.sandbox_id)
        if found := self._manager.find(tenant, key, request.min_sequence):
            return found
        key = convert.read(tenant, request)
        return await self._manager.get(tenant, key, request.min_sequence, convert.left(caller))
