"""An independent observer of one namespace: what the API server shows to the administrator, and when."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from tests.kubernetes import watching
from tests.kubernetes.cluster import ADMIN, Cluster
from tests.support.waiting import PATIENCE

GROUPS = {"pods": "api/v1", "persistentvolumeclaims": "api/v1", "events": "api/v1", "statefulsets": "apis/apps/v1"}
WITHIN = 45.0 * PATIENCE


@dataclass(frozen=True, slots=True)
class Sight:
    """One change of an object. `at` is by the monotonic clock."""

    at: float
    resource: str
    type: str
    value: dict[str, Any]

    @property
    def version(self) -> int:
        """The cluster's revision of this change: one count orders the changes of all kinds."""
        return int(self.value["metadata"]["resourceVersion"])


class Witness:
    """Use as an async context manager. `gaps` counts the times that changes may have been missed."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self.seen: list[Sight] = []
        self.gaps = -len(GROUPS)

    async def __aenter__(self) -> Self:
        self.session = self._cluster.session(ADMIN)
        self._tasks = [asyncio.create_task(self._follow(one)) for one in GROUPS]
        async with asyncio.timeout(WITHIN):
            while self.gaps < 0:
                await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await watching.close(self.session)

    def path(self, resource: str) -> str:
        return f"/{GROUPS[resource]}/namespaces/{self._namespace}/{resource}"

    async def _follow(self, resource: str) -> None:
        async for kind, value in watching.follow(self.session, self.path(resource)):
            at = time.monotonic()
            if kind == watching.LISTED:
                self.gaps += 1
                self.seen += [Sight(at, resource, "ADDED", one) for one in value]
            else:
                self.seen.append(Sight(at, resource, kind, value))

    async def first(self, resource: str, holds: Callable[[Sight], bool], since: float = 0.0) -> Sight:
        """The first sight of such a change, now or to come. Raises AssertionError if none comes in time."""
        looked = 0
        end = time.monotonic() + WITHIN
        while time.monotonic() < end:
            while looked < len(self.seen):
                one = self.seen[looked]
                looked += 1
                if one.resource == resource and one.at >= since and holds(one):
                    return one
            await asyncio.sleep(0.01)
        raise AssertionError(
            f"no such sight among: {[one.value for one in self.seen if one.resource == resource][-3:]}"
        )


def waiting(word: str) -> Callable[[Sight], bool]:
    def holds(sight: Sight) -> bool:
        containers = sight.value.get("status", {}).get("containerStatuses", [{}])
        return bool(containers[0].get("state", {}).get("waiting", {}).get("reason") == word)

    return holds


def condition(kind: str, status: str, words: str = "") -> Callable[[Sight], bool]:
    def holds(sight: Sight) -> bool:
        return any(
            (one["type"], one["status"]) == (kind, status) and words in one.get("message", "")
            for one in sight.value.get("status", {}).get("conditions", [])
        )

    return holds


def event(reason: str, words: str) -> Callable[[Sight], bool]:
    return lambda sight: sight.value["reason"] == reason and words in sight.value["message"]


def deleted(sight: Sight) -> bool:
    return sight.type == "DELETED"


def going(sight: Sight) -> bool:
    return "deletionTimestamp" in sight.value["metadata"]
