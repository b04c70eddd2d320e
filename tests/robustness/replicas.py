"""Replicas of the service, each a process, on one PostgreSQL and one cluster: what goes wrong around them.

Each replica reaches the database and the API server through relays of its own, so that it alone can be cut off.
"""

import asyncio
import base64
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server.engines.kubernetes.manifests import GENERATION

from tests.robustness.grounds import OBJECTS, Ground, environments, named, names
from tests.robustness.run import Fault
from tests.support import relay
from tests.support.postgres import Postgres
from tests.support.relay import Relay
from tests.support.service import Service
from tests.support.waiting import PATIENCE

COUNT = 3
LEASE = 4.0
"""Seconds after which a replica that is suspended holds nothing any more: `Pace.lease`."""
LEFTOVERS_WITHIN = 30.0 * PATIENCE
"""Seconds for what a suspended replica made too late to be removed."""
CRASHES = ("before_commit", "after_commit", "after_publish", "before_answer", "before_act", "after_act")
CRASHES += ("kubernetes_before_write", "kubernetes_after_write")
CRASHES += ("leases_before_commit", "leases_after_commit", "leases_taken", "leases_before_give_up")


class Replica:
    """One replica and its relays."""

    def __init__(self, service: Service, database: Relay, cluster: Relay) -> None:
        self.service = service
        self.database = database
        self.cluster = cluster


class Replicas:
    """See `run.World`."""

    def __init__(self, replicas: Sequence[Replica], postgres: Postgres, ground: Ground, choose: random.Random) -> None:
        self.replicas = replicas
        self.postgres = postgres
        self.ground = ground
        self.namespaces = ground.namespaces
        self.addresses = [one.service.address for one in replicas]
        self.choose = choose

    def faults(self) -> Sequence[Fault]:
        often = [self.kill, self.suspend, self.crash, self.database_silent, self.commit_unanswered]
        rare = [self.terminate, self.database_cut, self.database_restarted, self.cluster_cut, self.cluster_silent]
        return [*often, *often, *rare, *self.ground.faults()]

    async def look(self) -> None:
        """Does nothing: the history is of every moment."""

    def heal(self) -> None:
        """Does nothing: every fault ends by itself."""

    async def _later(self, least: float, most: float) -> None:
        await asyncio.sleep(self.choose.uniform(least, most))

    async def _start(self, service: Service) -> None:
        """Starts a replica, again if it ends by itself, as a kubelet does: its database may not answer while it starts."""
        await asyncio.to_thread(service.start, wait=False)
        process = service.process
        assert process is not None
        while process.poll() is not None or not await asyncio.to_thread(service.answers):
            if process.poll() is not None:
                await self._start(service)
                return

    @property
    def _any(self) -> Replica:
        return self.choose.choice(self.replicas)

    async def kill(self) -> None:
        service = self._any.service
        await asyncio.to_thread(service.kill)
        await self._later(0, 1.5 * LEASE)
        await self._start(service)

    async def terminate(self) -> None:
        service = self._any.service
        assert await asyncio.to_thread(service.terminate) == 0
        await self._later(0, LEASE)
        await self._start(service)

    async def suspend(self) -> None:
        """Longer than a lease, more often than not."""
        process = self._any.service.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        await self._later(0.5 * LEASE, 2.5 * LEASE)
        process.send_signal(signal.SIGCONT)

    async def crash(self) -> None:
        """At a failpoint, if it comes to that within some seconds."""
        service = self._any.service
        await asyncio.to_thread(service.kill)
        service.env = {"SANDBOX_FAILPOINTS": f"{self.choose.choice(CRASHES)}=kill@{self.choose.randrange(1, 20)}"}
        await asyncio.to_thread(service.start, wait=False)
        await self._later(2 * LEASE, 3 * LEASE)
        service.env = {}
        await asyncio.to_thread(service.kill)
        await self._start(service)

    async def database_cut(self) -> None:
        between = self._any.database
        for _ in range(self.choose.randrange(1, 5)):
            between.cut()
            await self._later(0, 0.5)

    async def commit_unanswered(self) -> None:
        """The next commit takes effect, and its answer is lost with every connection."""
        self._any.database.lose_answer_to(b"COMMIT")
        await self._later(0, 1)

    async def database_silent(self) -> None:
        between = self._any.database
        between.hold_answers()
        await self._later(0, 2 * LEASE)
        between.cut()

    async def cluster_cut(self) -> None:
        self._any.cluster.cut()

    async def cluster_silent(self) -> None:
        between = self._any.cluster
        between.hold_answers()
        await self._later(0, 3 * LEASE)
        between.cut()

    async def database_restarted(self) -> None:
        end = self.choose.choice([self.postgres.stop, self.postgres.kill])
        await asyncio.to_thread(end)
        await self._later(0, LEASE)
        await asyncio.to_thread(self.postgres.start)

    async def check(self, rows: Mapping[str, pb.Sandbox], log: Sequence[pb.SandboxStatus]) -> None:
        """Each sandbox has its objects as they are desired, and nothing else is there. No object ever went back."""
        latest = {one.sandbox_id: one for one in log}
        kept = {name for name, one in latest.items() if one.reason == pb.REASON_VOLUME_KEPT}
        running = {name for name, one in rows.items() if one.desired_state == pb.DESIRED_STATE_RUNNING}
        generations = {name: str(one.status.generation) for name, one in rows.items()}
        expected = {resource: {*rows} for resource in OBJECTS}
        expected["pods"] = expected["secrets"] = running
        expected["persistentvolumeclaims"] = {*rows, *kept}
        found = await self.ground.found()
        end = time.monotonic() + LEFTOVERS_WITHIN
        while (names(found), environments(found)) != (expected, named(found)) and time.monotonic() < end:
            await asyncio.sleep(0.5)
            found = await self.ground.found()
        assert names(found) == expected
        assert environments(found) == named(found)
        for name, objects in found["statefulsets"].items():
            (one,) = objects
            row = rows[name]
            assert (one["metadata"]["namespace"], one["spec"]["replicas"]) == (row.namespace, int(name in running))
            assert one["metadata"]["annotations"][GENERATION] == generations[name]
        assert all(len(objects) == 1 for objects in found["pods"].values())
        self.ground.history.check({one.uid: one.generation for one in log})
        for replica in self.replicas:
            lines = replica.service.log.read_text().splitlines()
            bad = [number for number, line in enumerate(lines) if "Traceback" in line or "reconcile_failed" in line]
            assert not bad, "\n".join(lines[bad[0] - 1 : bad[0] + 60])


@contextlib.asynccontextmanager
async def world(
    make_service: Callable[..., Service], folder: Path, ground: Ground, choose: random.Random, count: int = COUNT
) -> AsyncIterator[Replicas]:
    """Yields so many replicas over a PostgreSQL that nobody else uses."""
    keys = base64.b64encode(b"k" * 32).decode()
    async with contextlib.AsyncExitStack() as opened:
        postgres = await asyncio.to_thread(Postgres)
        opened.callback(postgres.close)
        url = postgres.database()
        replicas = []
        for number in range(count):
            database, far = opened.enter_context(relay.postgresql(url))
            cluster = opened.enter_context(relay.to(ground.port))
            (folder / str(number)).mkdir()
            kubeconfig = ground.kubeconfig(folder / str(number), cluster.address)
            flags = ["--engine", "kubernetes", "--kubeconfig", str(kubeconfig)]
            flags += ["--namespaces", ",".join(ground.namespaces)]
            flags += ["--database-url", far, "--encryption-keys", keys, "--resync", "5", "--log-format", "json"]
            replica = Replica(make_service(*flags), database, cluster)
            await asyncio.to_thread(replica.service.start)
            replicas.append(replica)
        yield Replicas(replicas, postgres, ground, choose)
