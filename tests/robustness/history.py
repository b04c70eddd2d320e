"""What became of the objects in the cluster in the course of a random run."""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
from sandbox_server.engines.kubernetes.manifests import GENERATION, ID, UID

from tests.kubernetes import watching
from tests.kubernetes.cluster import ADMIN, Cluster

FOLLOWED = {"statefulsets": "apis/apps/v1", "pods": "api/v1"}


class History:
    """What the API server has shown of every StatefulSet and pod."""

    def __init__(self) -> None:
        self.generations: dict[tuple[str, str], list[int]] = defaultdict(list)
        """Of each object, by its kind and the uid of its sandbox, the generations in turn."""
        self.pods: dict[str, set[str]] = defaultdict(set)
        """Of each sandbox, by its uid, the pods that there are now."""
        self.doubled: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def follow(self, cluster: Cluster) -> AsyncIterator[None]:
        """Follows both kinds until the body ends."""
        session = cluster.session(ADMIN)
        tasks = [asyncio.create_task(self._follow(session, *one)) for one in FOLLOWED.items()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await watching.close(session)

    async def _follow(self, session: aiohttp.ClientSession, resource: str, group: str) -> None:
        async for kind, value in watching.follow(session, f"/{group}/{resource}", f"labelSelector={ID}"):
            if kind == watching.LISTED and resource == "pods":
                self.pods.clear()
            for one in value if kind == watching.LISTED else [value]:
                self.see(resource, kind, one["metadata"])

    def see(self, resource: str, kind: str, meta: dict[str, Any]) -> None:
        uid = meta["annotations"][UID]
        if resource == "pods":
            pods = self.pods[uid]
            (pods.discard if kind == "DELETED" else pods.add)(meta["uid"])
            self.doubled[uid] += len(pods) > 1
        seen = self.generations[resource, uid]
        generation = int(meta["annotations"][GENERATION])
        if not seen or seen[-1] != generation:
            seen.append(generation)

    def check(self, generations: Mapping[str, int]) -> None:
        """Fails if a generation went back or was above the sandbox's, or if a sandbox had two pods at once."""
        for (resource, uid), seen in self.generations.items():
            assert seen == sorted(seen), f"{resource} of {uid} went back: {seen}"
            assert seen[-1] <= generations[uid], f"{resource} of {uid} is ahead: {seen} {generations[uid]}"
        assert +self.doubled == Counter(), "two pods at once"
