"""The RPCs: each reads its request, asks the manager, and writes the answer."""

import asyncio

from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server import feed, manager
from sandbox_server.domain import check, errors
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.tenant import Tenant
from sandbox_server.rpc import convert, render

CALL_MOST = 30.0
"""Seconds that a unary call may take, whatever its caller allows: no answer needs nearly as long."""


class Servicer:
    """One method for each RPC. `left` is what remains of the caller's deadline, in seconds."""

    def __init__(self, sandboxes: manager.StatefulSetManager, defaults: convert.Defaults) -> None:
        self._manager = sandboxes
        self._defaults = defaults

    async def create_sandbox(
        self, tenant: Tenant, request: pb.CreateSandboxRequest, left: float
    ) -> pb.CreateSandboxResponse:
        """CreateSandbox."""
        namespace = convert.created_in(tenant, request.namespace)
        spec, env = convert.creation(request, self._defaults)
        wish = convert.wish("CreateSandbox", request, left)
        made = await self._manager.create(tenant, wish, namespace, request.sandbox_id, spec, env, request.adopt_volume)
        return pb.CreateSandboxResponse(sandbox=self._whole(made))

    async def start(self, tenant: Tenant, request: pb.StartRequest, left: float) -> pb.StartResponse:
        """Start."""
        key = convert.target(tenant, request)
        wish = convert.wish("Start", request, left)
        return pb.StartResponse(
            sandbox=self._whole(await self._manager.start(tenant, wish, key, request.accept_data_loss))
        )

    async def stop(self, tenant: Tenant, request: pb.StopRequest, left: float) -> pb.StopResponse:
        """Stop."""
        key = convert.target(tenant, request)
        wish = convert.wish("Stop", request, left)
        return pb.StopResponse(sandbox=self._whole(await self._manager.stop(tenant, wish, key)))

    async def delete(self, tenant: Tenant, request: pb.DeleteRequest, left: float) -> pb.DeleteResponse:
        """Delete."""
        key = convert.target(tenant, request)
        wish = convert.wish("Delete", request, left)
        return pb.DeleteResponse(
            sandbox=self._whole(await self._manager.delete(tenant, wish, key, request.keep_volume))
        )

    async def update_env_vars(
        self, tenant: Tenant, request: pb.UpdateEnvVarsRequest, left: float
    ) -> pb.UpdateEnvVarsResponse:
        """UpdateEnvVars."""
        values, unset = dict(request.set), tuple(request.unset)
        key = convert.target(tenant, request, check.env_change(values, unset, request.replace))
        wish = convert.wish("UpdateEnvVars", request, left)
        changed = await self._manager.update_env(tenant, wish, key, values, unset, request.replace)
        return pb.UpdateEnvVarsResponse(sandbox=self._whole(changed))

    async def get_status(self, tenant: Tenant, request: pb.GetStatusRequest, left: float) -> bytes:
        """GetStatus, the answer written once for all its callers."""
        change = await self._seen(tenant, request, left)
        if self._manager.stale:
            status = render.status(change.sandbox, stale=True)
            return pb.GetStatusResponse(status=status).SerializeToString()
        return change.status

    async def get_sandbox(self, tenant: Tenant, request: pb.GetSandboxRequest, left: float) -> pb.GetSandboxResponse:
        """GetSandbox."""
        change = await self._seen(tenant, request, left)
        return pb.GetSandboxResponse(sandbox=self._whole(change.sandbox))

    async def _seen(
        self, tenant: Tenant, request: pb.GetStatusRequest | pb.GetSandboxRequest, left: float
    ) -> feed.Change:
        key = convert.target(tenant, request)
        if request.min_sequence > self._manager.sequence:
            try:
                async with asyncio.timeout(left):
                    await self._manager.arrived(request.min_sequence)
            except TimeoutError:
                raise errors.DeadlineExceeded(
                    "SEQUENCE_NOT_SEEN", "this replica has not seen min_sequence yet: repeat the call"
                ) from None
        return self._manager.find(tenant, key) or await self._manager.get(tenant, key)

    async def list_sandboxes(
        self, tenant: Tenant, request: pb.ListSandboxesRequest, left: float
    ) -> pb.ListSandboxesResponse:
        """ListSandboxes."""
        wanted, phases, size, after = convert.listed(tenant, request)
        found, following = await self._manager.list(wanted, phases, size, after)
        return pb.ListSandboxesResponse(
            sandboxes=[self._whole(one) for one in found],
            next_page_token=convert.page_token(following),
            sequence=self._manager.sequence,
        )

    async def watch_status(self, tenant: Tenant, request: pb.WatchStatusRequest, send: feed.Send) -> None:
        """WatchStatus; messages go to `send`, written."""
        wanted = convert.watched(tenant, request)
        after = request.after_sequence if request.HasField("after_sequence") else None
        await self._manager.watch(tenant, wanted, after, send)

    def _whole(self, sandbox: Sandbox) -> pb.Sandbox:
        return render.whole(sandbox, self._manager.stale)
