"""Replicas of the service, each a process, on one PostgreSQL and one real control plane: what goes wrong around them.

Each replica reaches the database and the API server through relays of its own, so that it alone can be cut off.
"""

import asyncio
import base64
import contextlib
import json
import random
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server.engines.kubernetes.manifests import GENERATION, ID

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.ground import SERVICE, make_namespace
from tests.kubernetes.node import Node
from tests.robustness.history import History
from tests.robustness.run import Fault
from tests.support import relay
from tests.support.postgres import Postgres
from tests.support.relay import Relay
from tests.support.service import Service

API = "kube-apiserver"
COUNT, NAMESPACES = 3, 4
LEASE = 4.0
"""Seconds after which a replica that is suspended holds nothing any more: `Pace.lease`."""
LEFTOVERS_WITHIN = 30.0
"""Seconds for what a suspended replica made too late to be removed."""
CRASHES = ("before_commit", "after_commit", "after_publish", "before_answer", "before_act", "after_act")
CRASHES += ("kubernetes_before_write", "kubernetes_after_write")
CRASHES += ("leases_before_commit", "leases_after_commit", "leases_taken", "leases_before_give_up")
OBJECTS = {
    "statefulsets": "apis/apps/v1",
    "pods": "api/v1",
    "services": "api/v1",
    "secrets": "api/v1",
    "persistentvolumeclaims": "api/v1",
    "ingresses": "apis/networking.k8s.io/v1",
}


Found = dict[str, dict[str, list[dict[str, Any]]]]
"""Objects by their kind and the id of their sandbox."""


def names(found: Found) -> dict[str, set[str]]:
    """Returns the ids of the sandboxes that have an object of each kind."""
    return {resource: set(of) for resource, of in found.items()}


class Replica:
    """One replica and its relays."""

    def __init__(self, service: Service, database: Relay, cluster: Relay) -> None:
        self.service = service
        self.database = database
        self.cluster = cluster


class Replicas:
    """See `run.World`."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        postgres: Postgres,
        cluster: Cluster,
        node: Node,
        namespaces: Sequence[str],
        choose: random.Random,
    ) -> None:
        self.replicas = replicas
        self.postgres = postgres
        self.cluster = cluster
        self.node = node
        self.namespaces = namespaces
        self.addresses = [one.service.address for one in replicas]
        self.choose = choose
        self.history = History()

    def faults(self) -> Sequence[Fault]:
        often = [self.kill, self.suspend, self.crash, self.database_cut, self.database_silent]
        rare = [self.terminate, self.cluster_cut, self.cluster_silent, self.database_restarted, self.api_server_killed]
        return [*often, *often, *rare, self.node_lost]

    async def look(self) -> None:
        """Does nothing: the history is of every moment."""

    def heal(self) -> None:
        """Does nothing: every fault ends by itself."""

    async def _later(self, least: float, most: float) -> None:
        await asyncio.sleep(self.choose.uniform(least, most))

    @property
    def _any(self) -> Replica:
        return self.choose.choice(self.replicas)

    async def kill(self) -> None:
        service = self._any.service
        await asyncio.to_thread(service.kill)
        await self._later(0, 1.5 * LEASE)
        await asyncio.to_thread(service.start)

    async def terminate(self) -> None:
        service = self._any.service
        assert await asyncio.to_thread(service.terminate) == 0
        await self._later(0, LEASE)
        await asyncio.to_thread(service.start)

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
        await asyncio.to_thread(service.start)

    async def database_cut(self) -> None:
        between = self._any.database
        for _ in range(self.choose.randrange(1, 5)):
            between.cut()
            await self._later(0, 0.5)

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

    async def api_server_killed(self) -> None:
        await asyncio.to_thread(self.cluster.kill, API)
        await self._later(0, 2 * LEASE)
        self.cluster.run(API)
        await asyncio.to_thread(self.cluster.wait)

    async def node_lost(self) -> None:
        self.node.alive = False
        await self._later(9, 14)
        self.node.alive = True

    async def check(self, rows: Mapping[str, pb.Sandbox], log: Sequence[pb.SandboxStatus]) -> None:
        """Each sandbox has its objects as they are desired, and nothing else is there. No object ever went back."""
        latest = {one.sandbox_id: one for one in log}
        kept = {name for name, one in latest.items() if one.reason == pb.REASON_VOLUME_KEPT}
        running = {name for name, one in rows.items() if one.desired_state == pb.DESIRED_STATE_RUNNING}
        generations = {name: str(one.status.generation) for name, one in rows.items()}
        expected = {resource: {*rows} for resource in OBJECTS}
        expected["pods"] = running
        expected["persistentvolumeclaims"] = {*rows, *kept}
        found = await asyncio.to_thread(self._found)
        end = time.monotonic() + LEFTOVERS_WITHIN
        while names(found) != expected and time.monotonic() < end:
            await asyncio.sleep(0.5)
            found = await asyncio.to_thread(self._found)
        assert names(found) == expected
        for name, objects in found["statefulsets"].items():
            (one,) = objects
            row = rows[name]
            assert (one["metadata"]["namespace"], one["spec"]["replicas"]) == (row.namespace, int(name in running))
            assert one["metadata"]["annotations"][GENERATION] == generations[name]
        assert all(len(objects) == 1 for objects in found["pods"].values())
        self.history.check({one.uid: one.generation for one in log})
        for replica in self.replicas:
            said = replica.service.log.read_text()
            assert not [word for word in ("Traceback", "reconcile_failed") if word in said], said[-3000:]

    def _found(self) -> Found:
        found: Found = {}
        for resource, group in OBJECTS.items():
            of = found[resource] = defaultdict(list)
            for namespace in self.namespaces:
                listed = self.cluster.request("GET", f"/{group}/namespaces/{namespace}/{resource}?labelSelector={ID}")
                for one in listed["items"]:
                    of[one["metadata"]["labels"][ID]].append(one)
        return found


@contextlib.asynccontextmanager
async def world(
    make_service: Callable[..., Service], folder: Path, choose: random.Random, count: int = COUNT
) -> AsyncIterator[Replicas]:
    """Yields so many replicas over a control plane and a PostgreSQL that nobody else uses."""
    keys = base64.b64encode(b"k" * 32).decode()
    async with contextlib.AsyncExitStack() as opened:
        cluster = Cluster()
        await asyncio.to_thread(cluster.start)
        opened.callback(cluster.stop)
        postgres = await asyncio.to_thread(Postgres)
        opened.callback(postgres.close)
        url = postgres.database()
        node = await opened.enter_async_context(Node(cluster))
        namespaces = [await asyncio.to_thread(make_namespace, cluster) for _ in range(NAMESPACES)]
        replicas = []
        for number in range(count):
            database, far = opened.enter_context(relay.postgresql(url))
            api = opened.enter_context(relay.to(int(cluster.url.rpartition(":")[2])))
            kubeconfig = cluster.kubeconfig(folder / f"kubeconfig-{number}", SERVICE)
            config = json.loads(kubeconfig.read_text())
            config["clusters"][0]["cluster"]["server"] = f"https://{api.address}"
            kubeconfig.write_text(json.dumps(config))
            flags = ["--engine", "kubernetes", "--kubeconfig", str(kubeconfig), "--namespaces", ",".join(namespaces)]
            flags += ["--database-url", far, "--encryption-keys", keys, "--resync", "5", "--log-format", "json"]
            replica = Replica(make_service(*flags), database, api)
            await asyncio.to_thread(replica.service.start)
            replicas.append(replica)
        made = Replicas(replicas, postgres, cluster, node, namespaces, choose)
        await opened.enter_async_context(made.history.follow(cluster))
        yield made
