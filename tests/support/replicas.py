"""Several replicas in this process, on one PostgreSQL and one scripted API server."""

import asyncio
import base64
import dataclasses
import uuid
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sandbox_server import app, manager, store
from sandbox_server.domain.event import Event
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.tenant import Tenant
from sandbox_server.settings import Settings

from tests.support import samples
from tests.support.rig import FAST
from tests.support.scripted import ANSWERED_WITHIN
from tests.support.scripted_api import ScriptedApi
from tests.support.waiting import PATIENCE

NAMESPACES = ("a", "b", "c", "d", "e", "f")
TENANT = Tenant("default", NAMESPACES)
PACE = dataclasses.replace(FAST, lease=6.0, lease_every=0.2, cut_off_after=60.0)
"""With leases that a process which stalls for a while neither loses nor gives up."""
EXPIRING = dataclasses.replace(PACE, lease=2.0)
"""For tests that wait for the end of a lease."""
CUT_OFF_SOON = dataclasses.replace(PACE, cut_off_after=0.5)
"""For tests of a replica that is cut off from the cluster."""


class Replica:
    """One replica. `events` is what its feed has read."""

    def __init__(self, running: app.Service, opened: AsyncExitStack) -> None:
        self.running = running
        self.opened = opened
        self.events: list[Event] = []
        running.feed.on_event(self.events.append)

    @property
    def name(self) -> str:
        return self.running.store.name

    def held(self) -> set[str]:
        return {one for one in NAMESPACES if self.running.leases.held(one)}

    async def create(self, namespace: str, sandbox_id: str) -> Sandbox:
        mutation = self.mutation(namespace, sandbox_id)
        return (await self.running.manager.create(mutation, samples.spec(), {"A": "1"}, False)).sandbox

    async def env(self, namespace: str, sandbox_id: str, **values: str) -> Sandbox:
        mutation = self.mutation(namespace, sandbox_id)
        return (await self.running.manager.update_env(mutation, values, (), False)).sandbox

    @staticmethod
    def mutation(namespace: str, sandbox_id: str) -> manager.Mutation:
        request = store.Request("default", str(uuid.uuid4()), b"")
        return manager.Mutation(TENANT, Key(namespace, sandbox_id), request, None)

    async def settled(self, namespace: str, sandbox_id: str, phase: Phase) -> Sandbox:
        last: list[Sandbox] = []

        async def holds() -> bool:
            last[:] = [(await self.running.manager.get(TENANT, Key(namespace, sandbox_id))).event.sandbox]
            status = last[0].status
            return status.phase is phase and status.observed_generation == last[0].generation

        async with asyncio.timeout(20 * PATIENCE):
            while not await holds():
                await asyncio.sleep(0.02)
        return last[0]


class Replicas:
    """Starts and stops replicas. `url` is the database's."""

    def __init__(self, api: ScriptedApi, url: str, folder: Path) -> None:
        self.api = api
        self.url = url
        self.folder = folder
        self.live: list[Replica] = []
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        """The clock of the schedules of all replicas."""

    async def start(self, url: str = "", **changes: Any) -> Replica:
        settings = Settings(
            engine="kubernetes",
            kubeconfig=self.api.kubeconfig(self.folder),
            cluster_timeout=ANSWERED_WITHIN,
            cluster_silence=3.0,
            listen="127.0.0.1:0",
            database_url=SecretStr(url or self.url),
            encryption_keys=SecretStr(base64.b64encode(b"k" * 32).decode()),
            namespaces=",".join(NAMESPACES),
            shutdown_grace=1.0,
            resync=30.0,
            ready_for=0.0,
            start_deadline=60.0,
            base_pace=PACE,
        ).model_copy(update=changes)
        opened = AsyncExitStack()
        replica = Replica(await opened.enter_async_context(app.service(settings, now=self.now)), opened)
        self.live.append(replica)
        return replica

    async def stop(self, replica: Replica) -> None:
        self.live.remove(replica)
        await replica.opened.aclose()

    async def close(self) -> None:
        for replica in list(self.live):
            await self.stop(replica)

    async def until(self, holds: Callable[[], bool], within: float = 10) -> None:
        try:
            async with asyncio.timeout(within * PATIENCE):
                while not holds():
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError({one.name: sorted(one.held()) for one in self.live}) from None

    def shared(self, namespaces: Collection[str] = NAMESPACES) -> bool:
        """Whether each namespace is held by one live replica, and each of these has its share."""
        held = [one.held() for one in self.live]
        sizes = [len(one) for one in held]
        return sum(sizes) == len(set().union(*held)) == len(namespaces) and max(sizes) - min(sizes) <= 1
