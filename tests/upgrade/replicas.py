"""Replicas of several releases, each a process, over one PostgreSQL and one scripted API server."""

import asyncio
import base64
import json
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import psycopg
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.ports import free_port
from tests.support.scripted import PODS
from tests.support.scripted_api import ScriptedApi
from tests.support.waiting import PATIENCE
from tests.upgrade.releases import Release

NAMESPACES = ("a", "b", "c", "d", "e", "f")
KEYS = base64.b64encode(b"k" * 32).decode()


class Replica:
    """A place for a replica: the process at a port changes, and so may its release."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.log = folder / f"replica-{self.port}.log"
        self.process: subprocess.Popen[bytes] | None = None


class Replicas:
    """See `Replica`. `flags` are the settings of every release and of `sandbox-server migrate`."""

    def __init__(self, api: ScriptedApi, url: str, folder: Path) -> None:
        self.api = api
        self.url = url
        self.folder = folder
        kubeconfig = str(api.kubeconfig(folder))
        self.flags = ("--engine", "kubernetes", "--kubeconfig", kubeconfig, "--namespaces", ",".join(NAMESPACES))
        self.flags += ("--database-url", url, "--encryption-keys", KEYS, "--data-dir", str(folder / "data"))
        self.places: list[Replica] = []

    async def migrate(self, release: Release) -> "subprocess.CompletedProcess[str]":
        return await asyncio.to_thread(release.run, "migrate", *self.flags)

    async def refused(self, release: Release) -> str:
        """Returns what a service of that release says as it refuses to start."""
        ended = await asyncio.to_thread(release.run, *self._listening(free_port()))
        assert ended.returncode == 1, ended
        return ended.stderr

    def _listening(self, port: int) -> Sequence[str]:
        return (*self.flags, "--listen", f"127.0.0.1:{port}", "--ready-for", "0")

    async def add(self, release: Release, count: int = 1) -> None:
        """Starts so many more replicas; returns when each is SERVING."""
        made = [Replica(self.folder) for _ in range(count)]
        self.places += made
        for place in made:
            self._start(place, release)
        for place in made:
            await self._serving(place)

    async def replace(self, place: Replica, release: Release) -> None:
        """Ends a replica by SIGTERM and starts one of that release instead; returns when it is SERVING with its share."""
        await self.terminate(place)
        self._start(place, release)
        await self._serving(place)
        await self.shared()

    def _start(self, place: Replica, release: Release) -> None:
        words = [*release.server, *self._listening(place.port)]
        with place.log.open("ab") as log:
            place.process = subprocess.Popen(words, env=release.environment, cwd=self.folder, stdout=log, stderr=log)

    async def _serving(self, place: Replica) -> None:
        async with grpc.aio.insecure_channel(place.address, (("grpc.max_reconnect_backoff_ms", 100),)) as channel:
            health = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
            watch = health.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=20 * PATIENCE)
            try:
                async for answer in watch:
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            except grpc.aio.AioRpcError:
                raise AssertionError(place.log.read_text()[-3000:]) from None

    async def terminate(self, place: Replica) -> None:
        """Ends a replica as a rolling upgrade does. Nothing but this may have ended it."""
        process = place.process
        assert process is not None
        assert process.poll() is None, place.log.read_text()[-3000:]
        process.terminate()
        assert await asyncio.to_thread(process.wait, 30 * PATIENCE) == 0, place.log.read_text()[-3000:]

    async def shared(self) -> None:
        """Returns when the replicas have equal shares of the namespaces, and observe them."""
        share = len(NAMESPACES) // len(self.places)
        async with asyncio.timeout(20 * PATIENCE):
            while [*Counter(await self.holders()).values()] != [share] * len(self.places):
                await asyncio.sleep(0.1)

    async def holders(self) -> list[str]:
        """Returns the holder of each namespace that is held and observed."""
        living = "synced AND expires_at > extract(epoch FROM clock_timestamp())"
        return [one for (one,) in await self.rows(f"SELECT holder FROM lease WHERE {living}")]

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Returns what the database answers to a statement."""
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as opened:
            return await (await opened.execute(statement)).fetchall()  # type: ignore[arg-type]

    async def documents(self) -> dict[str, dict[str, Any]]:
        """Returns the document of the last event of each sandbox."""
        found = await self.rows("SELECT sandbox.id, document FROM sandbox JOIN status_event USING (sequence)")
        return {name: json.loads(document) for name, document in found}

    async def specs(self) -> dict[str, dict[str, Any]]:
        """Returns the document of the spec of each sandbox."""
        of = "JOIN status_event USING (sequence) JOIN part ON part.sequence = spec_sequence AND name = 'spec'"
        found = await self.rows(f"SELECT sandbox.id, part.document FROM sandbox {of}")
        return {name: json.loads(document) for name, document in found}

    def pods(self) -> dict[str, str]:
        """Returns the uid of each pod."""
        collections = [PODS.replace("/default/", f"/{one}/") for one in NAMESPACES]
        found = [one for name in collections for one in self.api.objects.get(name, {}).values()]
        return {one["metadata"]["name"]: one["metadata"]["uid"] for one in found}

    def said(self) -> str:
        """Returns what the replicas have logged."""
        return "".join(place.log.read_text() for place in self.places)

    def close(self) -> None:
        for place in self.places:
            if place.process is not None and place.process.poll() is None:
                place.process.kill()
                place.process.wait()
