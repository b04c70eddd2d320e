"""The service in this process, over an engine of either kind, driven below its RPCs by the contract suite."""

import asyncio
import base64
import dataclasses
import functools
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

from pydantic import SecretStr
from sandbox_server import app, engines, manager, store
from sandbox_server.domain import lifecycle
from sandbox_server.domain.event import Event
from sandbox_server.domain.observed import Observed
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import DesiredState, Phase
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.spec import SandboxSpec
from sandbox_server.domain.tenant import Tenant
from sandbox_server.settings import Settings

from tests.support import samples, sqlite
from tests.support.waiting import PATIENCE

A = "suite-a"
"""The id of the sandbox that most tests have."""
WITHIN = 30.0


def faster(factor: float) -> Pace:
    """A faster pace, by which a busy machine ends no call: its message may be late, and its work may take long."""
    return dataclasses.replace(Pace().faster(factor), call_most=Pace.call_most, message_within=Pace.message_within)


FAST = dataclasses.replace(
    faster(10),
    busy_after=Pace.busy_after,
    controller_guard=Pace.controller_guard,
    plugin_within=Pace.plugin_within,
    probe_within=Pace.probe_within,
    possible_within=10 * Pace.possible_within,
    call_most=Pace.call_most,
    access_idle=Pace.access_idle,
    access_within=Pace.access_within,
    usage_within=Pace.usage_within,
    access_stored_within=Pace.access_stored_within,
    access_end_shown_within=Pace.access_end_shown_within,
    local_alive=Pace.local_alive,
    local_drained_within=Pace.local_drained_within,
)
"""The pace of most tests. Programs that are not the service's own are no faster under it, and on a busy machine an API server
of the tests may fail to answer for a while, which is to show in no status."""
BUSY_SOON = dataclasses.replace(FAST, busy_after=Pace.busy_after / 10)
"""For tests of an API server that cannot act for long."""
LONG_ALIVE = dataclasses.replace(FAST, local_alive=60.0)
"""For programs that end at once, which on a busy machine takes a while: they must not be taken for running before."""


class Ground(Protocol):
    """What the suite needs of an engine's world beyond the engine."""

    namespace: str
    settings: Settings
    """Which engine it is, and where its world is; the rest is the rig's."""

    async def crash(self, sandbox: Sandbox) -> None:
        """Has the sandbox's process end again and again with exit code 3 and the value of its TOKEN on stderr."""

    async def heal(self, sandbox: Sandbox) -> None:
        """Has it run again."""

    def spec(self) -> SandboxSpec:
        """A spec that becomes ready."""


class Rig:
    """The service, whose manager the tests call. `restart` is what a new process finds. `settings` are beside the ground's.

    `engine` makes the engine in place of the one that follows from all of the settings.
    """

    def __init__(
        self,
        ground: Ground,
        folder: Path,
        start_deadline: float = 60,
        resync: float = 30,
        ready_for: float = 0,
        engine: Callable[[], engines.Engine | None] = lambda: None,
        pace: Pace = FAST,
    ) -> None:
        self.ground = ground
        self._make_engine = engine
        self.tenant = Tenant("default", (ground.namespace,))
        self.settings: dict[str, Any] = {
            "listen": "127.0.0.1:0",
            "database_url": SecretStr(f"sqlite:///{folder}/rig.db"),
            "encryption_keys": SecretStr(base64.b64encode(b"k" * 32).decode()),
            "base_pace": pace,
            "shutdown_grace": 0.0,
            "workers": 8,
            "resync": resync,
            "start_deadline": start_deadline,
            "ready_for": ready_for,
        }
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "rig.db").exists():
            (folder / "rig.db").write_bytes(sqlite.migrated())
        self.history: list[Sandbox] = []
        self.sequences: list[int] = []
        self.listeners: list[Callable[[Sandbox], None]] = [self.history.append]

    async def start(self) -> None:
        self._opened = AsyncExitStack()
        settings = self.ground.settings.model_copy(update=self.settings)
        running = await self._opened.enter_async_context(app.service(settings, engine=self._make_engine()))
        self.port = running.port
        self.store, self.feed, self.engine = running.store, running.feed, running.engine
        self.reconciler, self.manager = running.reconciler, running.manager
        self.snapshots = running.snapshots
        self._reconciling, self.measuring = running.reconciling, running.measuring
        self.feed.on_event(self._heard)

    def _heard(self, event: Event) -> None:
        self.sequences.append(event.sequence)
        for listener in self.listeners:
            listener(event.sandbox)

    async def stop(self) -> None:
        await self._opened.aclose()

    async def suspend(self) -> None:
        """Ends the reconciler and nothing else, until `restart`."""
        self._reconciling.cancel()
        await asyncio.wait([self._reconciling])

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    @property
    def stale(self) -> bool:
        """Whether the answers to callers are marked as possibly out of date."""
        return self.manager.stale(self.ground.namespace)

    def mutation(self, sandbox_id: str) -> manager.Mutation:
        request = store.Request(self.tenant.name, str(uuid.uuid4()), b"")
        return manager.Mutation(self.tenant, self.key(sandbox_id), request, None)

    def key(self, sandbox_id: str) -> Key:
        return Key(self.ground.namespace, sandbox_id)

    async def create(
        self,
        sandbox_id: str,
        env: dict[str, str] | None = None,
        *,
        adopt: bool = False,
        spec: SandboxSpec | None = None,
    ) -> Sandbox:
        return (
            await self.manager.create(self.mutation(sandbox_id), spec or self.ground.spec(), env or {}, adopt)
        ).sandbox

    async def begin(self, sandbox_id: str, phase: Phase) -> Sandbox:
        """Sets the desired state that leads to `phase`."""
        if phase is Phase.RUNNING:
            return (await self.manager.start(self.mutation(sandbox_id), False)).sandbox
        return (await self.manager.stop(self.mutation(sandbox_id))).sandbox

    async def env(self, sandbox_id: str, **values: str) -> Sandbox:
        return (await self.manager.update_env(self.mutation(sandbox_id), values, (), False)).sandbox

    async def update(self, sandbox_id: str, **fields: Any) -> Sandbox:
        """Changes fields of the spec."""
        change = functools.partial(dataclasses.replace, **fields)
        return (await self.manager.update(self.mutation(sandbox_id), change)).sandbox

    async def delete(self, sandbox_id: str, *, keep: bool = False) -> Sandbox:
        return (await self.manager.delete(self.mutation(sandbox_id), keep)).sandbox

    async def get(self, sandbox_id: str) -> Sandbox:
        return (await self.manager.get(self.tenant, self.key(sandbox_id))).event.sandbox

    async def until(self, sandbox_id: str, holds: Callable[[Sandbox], bool], within: float = WITHIN) -> Sandbox:
        """The sandbox once `holds` is true of it. Fails with what it was last."""
        sandbox = await self.get(sandbox_id)
        try:
            async with asyncio.timeout(within * PATIENCE):
                while not holds(sandbox):
                    await asyncio.sleep(0.01)
                    sandbox = await self.get(sandbox_id)
        except TimeoutError:
            raise AssertionError(f"last seen: {sandbox.status} {self.engine.observe(sandbox)}") from None
        return sandbox

    async def settled(self, sandbox_id: str, phase: Phase, within: float = WITHIN) -> Sandbox:
        """The sandbox once it has reached its generation in `phase`, and the engine has nothing left to do."""

        def holds(one: Sandbox) -> bool:
            # Before the informers have synced, `observe` shows nothing yet.
            if self.stale:
                return False
            reached = one.status.phase is phase and one.status.observed_generation == one.generation
            if not reached or phase is Phase.TERMINATED:
                return reached
            return lifecycle.decide(one, self.engine.observe(one), samples.NOW).action is None

        return await self.until(sandbox_id, holds, within)

    def observe(self, sandbox: Sandbox) -> Observed:
        return self.engine.observe(sandbox)

    def check_history(self) -> None:
        """What holds of every history: one order, no gap, and no settled phase while another state is desired."""
        assert self.sequences == list(range(self.sequences[0], self.sequences[0] + len(self.sequences)))
        for one in self.history:
            wanted = {Phase.RUNNING: DesiredState.RUNNING, Phase.STOPPED: DesiredState.STOPPED}
            assert wanted.get(one.status.phase, one.desired) is one.desired
