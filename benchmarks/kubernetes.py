"""Five hundred sandboxes on a real control plane: the service against a bare script. `make benchmark-kubernetes`.

The script (`python -m benchmarks.kubernetes bare URL CA NAMESPACE`) applies the same objects with as many workers as the
service has. The two take turns, each time with a control plane of its own, so that neither finds it worn: from one minute
to the next a shared machine may be half as fast.
"""

import asyncio
import json
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient
from sandbox_server.domain import mutations
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.spec import Resources, SandboxSpec, Storage
from sandbox_server.engines.kubernetes import client, manifests
from sandbox_server.settings import Kubernetes

from benchmarks import load
from benchmarks.report import Figure, report
from tests.kubernetes import watching
from tests.kubernetes.cluster import ADMIN, Cluster
from tests.kubernetes.ground import SERVICE, make_namespace
from tests.kubernetes.node import Node

COUNT = 500
WORKERS = 16
"""As many as the service's setting `workers` has by default."""
ROUNDS = 3
WITHIN = 600.0


def five_hundred() -> Iterator[Figure]:
    """Seconds until all run, the median; the service says so itself, of the script's the pods are asked."""
    took = [(asyncio.run(_service()), asyncio.run(_script())) for _ in range(ROUNDS)]
    mine, bare = map(statistics.median, zip(*took, strict=True))
    yield Figure(f"{COUNT} sandboxes created at once, until all run; a bare script", mine, bare, "s", 1.1)


@asynccontextmanager
async def _ground() -> AsyncIterator[tuple[Cluster, str]]:
    cluster = await asyncio.to_thread(Cluster)
    await asyncio.to_thread(cluster.start)
    try:
        async with Node(cluster):
            yield cluster, await asyncio.to_thread(make_namespace, cluster)
    finally:
        cluster.stop()


async def _service() -> float:
    async with _ground() as (cluster, namespace):
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            kubeconfig = cluster.kubeconfig(Path(folder) / "kubeconfig", SERVICE)
            flags = ("--engine", "kubernetes", "--kubeconfig", str(kubeconfig), "--namespaces", namespace)
            with load.service(*flags, "--default-image", "sandbox:1") as process:
                await asyncio.to_thread(process.serving)
                return await _created(process)


async def _created(process: load.Process) -> float:
    async with AsyncClient(process.address, timeout=WITHIN) as caller:
        began, running = time.monotonic(), set()
        creating = [
            asyncio.create_task(caller.create("bench", sandbox_id=f"bench-{number}", env={"A": "1"}))
            for number in range(COUNT)
        ]
        async for event in caller.watch(project="bench", timeout=WITHIN):
            if event.status is not None:
                change = running.add if event.status.phase == pb.PHASE_RUNNING else running.discard
                change(event.status.sandbox_id)
            if len(running) == COUNT:
                break
        took = time.monotonic() - began
        await asyncio.gather(*creating)
    return took


async def _script() -> float:
    async with _ground() as (cluster, namespace):
        command = [sys.executable, "-m", "benchmarks.kubernetes", "bare", cluster.url, str(cluster.ca), namespace]
        script = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert script.stdin is not None
        assert script.stdout is not None
        await asyncio.to_thread(script.stdout.readline)
        session = cluster.session(ADMIN)
        try:
            began = time.monotonic()
            script.stdin.close()
            await asyncio.wait_for(_ready(session, namespace), WITHIN)
            return time.monotonic() - began
        finally:
            await watching.close(session)
            script.wait(timeout=60)


async def _ready(session: aiohttp.ClientSession, namespace: str) -> None:
    ready: set[str] = set()
    async for kind, value in watching.follow(session, f"/api/v1/namespaces/{namespace}/pods"):
        for pod in value if kind == watching.LISTED else [value]:
            conditions = pod.get("status", {}).get("conditions", [])
            if any((one["type"], one["status"]) == ("Ready", "True") for one in conditions):
                ready.add(pod["metadata"]["name"])
        if len(ready) == COUNT:
            return


async def bare(url: str, ca: str, namespace: str) -> None:
    """Says that it is ready, waits for the word, and applies everything."""
    resources, storage = Resources("100m", "2", "256Mi", "2Gi"), Storage("5Gi", "", "ReadWriteOnce")
    spec = SandboxSpec(project="bench", image="sandbox:1", resources=resources, storage=storage)
    waiting = []
    for number in range(COUNT):
        key = Key(namespace, f"bench-{number}")
        made = mutations.new(key, "default", f"uid-{number}", f"h{number:011}", spec, ("A",), datetime.now(UTC))
        waiting.append(manifests.objects(made, {"A": "1"}, 1, Kubernetes()))
    headers = {"Authorization": f"Bearer {SERVICE}", "Content-Type": "application/apply-patch+yaml"}
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=ca), limit=WORKERS)

    async def worker() -> None:
        while waiting:
            for resource in waiting.pop():
                path, body = client.path(*resource.reference), json.dumps(resource.manifest)
                parameters = {"fieldManager": "bare", "force": "true"}
                async with session.patch(path, params=parameters, data=body) as answer:
                    await answer.read()
                    assert answer.status < 300, await answer.text()

    async with aiohttp.ClientSession(url, connector=connector, headers=headers) as session:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await asyncio.gather(*(worker() for _ in range(WORKERS)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["bare"]:
        asyncio.run(bare(*sys.argv[2:]))
    else:
        report({"five_hundred": five_hundred}, sys.argv[1:], "kubernetes table")
