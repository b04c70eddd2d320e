"""A controller that undoes what the service writes, on the real API server: its fields have managers, and few writes come."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sandbox_server.domain.phase import Phase, Reason

from tests.kubernetes import watching
from tests.kubernetes.cluster import ADMIN
from tests.kubernetes.ground import KubernetesGround
from tests.support.rig import Rig

pytestmark = [pytest.mark.find(21), pytest.mark.fault(67)]
A = "contest-a"
MERGE = "application/merge-patch+json"
MOST = 9
"""Acts in the first three seconds, as in the scripted test."""


class Controller:
    """Changes an object whenever a watch shows that the object is not as the controller wants it."""

    def __init__(self, ground: KubernetesGround, path: str, patch: dict[str, Any]) -> None:
        self._ground = ground
        self._path = path
        self._patch = patch
        self._made: set[int] = set()

    @property
    def times(self) -> int:
        """How often the object was changed: a watch shows each state of the object more than once."""
        return len(self._made)

    async def _run(self) -> None:
        collection, _, name = self._path.rpartition("/")
        session = self._ground.cluster.session(ADMIN)
        try:
            async for kind, value in watching.follow(session, collection, f"fieldSelector=metadata.name%3D{name}"):
                found = value if kind != watching.LISTED else next(iter(value), None)
                if kind == "DELETED" or found is None or wanted(found, self._patch):
                    continue
                headers = {"Content-Type": MERGE}
                async with session.patch(
                    f"{self._path}?fieldManager=keda-operator", json=self._patch, headers=headers
                ) as answer:
                    self._made.add((await answer.json())["metadata"]["generation"])
        finally:
            await watching.close(session)

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def wanted(found: dict[str, Any], patch: dict[str, Any]) -> bool:
    return all(
        wanted(found.get(name, {}), value) if isinstance(value, dict) else found.get(name) == value
        for name, value in patch.items()
    )


async def test_replicas_that_are_taken_back_each_time(rig: Rig, ground: KubernetesGround) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    controller = Controller(ground, ground.path("statefulsets", A, "apis/apps/v1"), {"spec": {"replicas": 0}})
    async with controller.at_work():
        failed = await rig.until(A, lambda one: one.status.reason is Reason.FIELD_CONFLICT)
        words = f"keda-operator changes spec.replicas of the StatefulSet {A} each time the service sets it"
        assert (failed.status.phase, failed.status.message) == (Phase.ERROR, words)
        told = len(rig.history)
        await asyncio.sleep(3)
        assert controller.times <= MOST + 1
        assert {one.status.reason for one in rig.history[told:]} <= {Reason.FIELD_CONFLICT}
        await rig.begin(A, Phase.STOPPED)
        await rig.settled(A, Phase.STOPPED)
    await rig.begin(A, Phase.RUNNING)
    await rig.settled(A, Phase.RUNNING)


async def test_label_of_the_template_that_is_changed_each_time(rig: Rig, ground: KubernetesGround) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    metadata = {"labels": {"app": "theirs"}}
    controller = Controller(
        ground, ground.path("statefulsets", A, "apis/apps/v1"), {"spec": {"template": {"metadata": metadata}}}
    )
    async with controller.at_work():
        named = await rig.until(A, lambda one: one.status.reason is Reason.FIELD_CONFLICT)
        assert "keda-operator changes spec.template.metadata.labels.app of the StatefulSet" in named.status.message
        await asyncio.sleep(2)
        assert controller.times <= MOST + 1
    await rig.settled(A, Phase.RUNNING)
