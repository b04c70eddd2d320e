"""The clusters under the replicas of a random run: a real control plane, and the scripted API server."""

import asyncio
import contextlib
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web
from sandbox_server.engines.kubernetes.manifests import ID

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.ground import SERVICE, make_namespace
from tests.kubernetes.node import Node
from tests.robustness.history import FOLLOWED, History
from tests.robustness.run import Fault
from tests.support import samples
from tests.support.scripted_api import ScriptedApi, status

API = "kube-apiserver"
NAMESPACES = 4
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


def environments(found: Found) -> dict[str, list[str]]:
    """Returns the names of the Secrets of each sandbox that has one."""
    return {name: [one["metadata"]["name"] for one in secrets] for name, secrets in found["secrets"].items()}


def named(found: Found) -> dict[str, list[str]]:
    """Returns the names of the Secrets that the template of each running sandbox names."""
    return {
        name: [source["secretRef"]["name"] for source in one["spec"]["template"]["spec"]["containers"][0]["envFrom"]]
        for name, sets in found["statefulsets"].items()
        for one in sets
        if one["spec"]["replicas"]
    }


class Ground(Protocol):
    """A cluster. `port` is that of its API server."""

    namespaces: Sequence[str]
    port: int
    history: History

    def kubeconfig(self, folder: Path, address: str) -> Path:
        """Writes a kubeconfig that leads to the API server by another address."""

    def faults(self) -> Sequence[Fault]:
        """Returns the faults of the cluster itself."""

    async def found(self) -> Found:
        """Returns the objects in the namespaces."""


class ControlPlane:
    """A real control plane with a simulated node."""

    def __init__(self, cluster: Cluster, node: Node, namespaces: Sequence[str], choose: random.Random) -> None:
        self.cluster = cluster
        self.node = node
        self.namespaces = namespaces
        self.port = int(cluster.url.rpartition(":")[2])
        self.history = History()
        self.choose = choose

    def kubeconfig(self, folder: Path, address: str) -> Path:
        path = self.cluster.kubeconfig(folder / "kubeconfig", SERVICE)
        config = json.loads(path.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://{address}"
        path.write_text(json.dumps(config))
        return path

    def faults(self) -> Sequence[Fault]:
        return [self.api_server_killed, self.node_lost]

    async def api_server_killed(self) -> None:
        await asyncio.to_thread(self.cluster.kill, API)
        await asyncio.sleep(self.choose.uniform(0, 8))
        self.cluster.run(API)
        await asyncio.to_thread(self.cluster.wait)

    async def node_lost(self) -> None:
        self.node.alive = False
        await asyncio.sleep(self.choose.uniform(9, 14))
        self.node.alive = True

    async def found(self) -> Found:
        return await asyncio.to_thread(self._found)

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
async def control_plane(choose: random.Random) -> AsyncIterator[ControlPlane]:
    """Yields a control plane that nobody else uses."""
    cluster = Cluster()
    await asyncio.to_thread(cluster.start)
    try:
        async with Node(cluster) as node:
            namespaces = [await asyncio.to_thread(make_namespace, cluster) for _ in range(NAMESPACES)]
            made = ControlPlane(cluster, node, namespaces, choose)
            async with made.history.follow(cluster):
                yield made
    finally:
        cluster.stop()


class Scripted:
    """The scripted API server. It needs nothing built, and answers more slowly the more there is to do in this process."""

    namespaces = ("a", "b", "c", "d")

    def __init__(self, api: ScriptedApi, choose: random.Random) -> None:
        self.api = api
        self.port = api.port
        self.history = History()
        self.choose = choose
        self._tell, api.tell = api.tell, self._told  # type: ignore[method-assign]

    def _told(self, collection: str, kind: str, value: dict[str, Any]) -> None:
        resource = collection.rpartition("/")[2]
        if resource in FOLLOWED:
            self.history.see(resource, kind, value["metadata"])
        self._tell(collection, kind, value)

    def kubeconfig(self, folder: Path, address: str) -> Path:
        return samples.kubeconfig(folder, int(address.rpartition(":")[2]))

    def faults(self) -> Sequence[Fault]:
        return [self.api_server_restarted, self.api_server_fails]

    async def api_server_restarted(self) -> None:
        """Without its roles at first."""
        self.api.restart(without_roles=1)
        await asyncio.sleep(1)

    async def api_server_fails(self) -> None:
        """Answers some calls with an error, before or after they took effect."""

        async def fail(request: web.Request) -> web.StreamResponse | None:
            if self.choose.random() < 0.5:
                return None
            if self.choose.random() < 0.5:
                await self.api.obey(request)
            return status(500, "it is having a bad time")

        entry = (lambda request: request.method in ("PATCH", "DELETE"), fail)
        self.api.lasting.append(entry)
        await asyncio.sleep(self.choose.uniform(0, 4))
        self.api.lasting.remove(entry)

    async def found(self) -> Found:
        found: Found = {resource: defaultdict(list) for resource in OBJECTS}
        for collection, objects in self.api.objects.items():
            for one in objects.values():
                if collection.rpartition("/")[2] in found:
                    found[collection.rpartition("/")[2]][one["metadata"]["labels"][ID]].append(one)
        return found


@contextlib.asynccontextmanager
async def scripted(choose: random.Random) -> AsyncIterator[Scripted]:
    api = ScriptedApi()
    await api.start()
    try:
        yield Scripted(api, choose)
    finally:
        await api.stop()
