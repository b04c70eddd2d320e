"""The service is killed at each of its writes for a sandbox that was adopted, and the next process finishes the work."""

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sandbox_client import AsyncClient
from sandbox_server import adopting, settings

from tests.support import former_objects as former
from tests.support.killer import Killer
from tests.support.scripted import CLAIMS, INGRESSES, PODS, SECRETS, SERVICES, SETS, until
from tests.support.scripted_api import ScriptedApi
from tests.support.service import Service

WITHIN = 60.0
LASTING = (SETS, SERVICES, INGRESSES, CLAIMS)
# Ten starts of the service each.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Move:
    """A service that is killed, and former sandboxes for it: one for each position, told apart by a variable."""

    def __init__(self, api: ScriptedApi, service: Service, flags: tuple[str, ...]) -> None:
        self.api, self.service = api, service
        self.killer = Killer(api, service)
        self._flags = (*flags, "--data-dir", str(service.folder / "data"), "--namespace", "default")

    async def prepare(self, position: int) -> str:
        """Makes a former sandbox and returns its name."""
        name = f"p{position}-agentruntime-x{position:05d}"
        made = former.objects(name=name)
        (container,) = former.of_kind(made, "StatefulSet")["spec"]["template"]["spec"]["containers"]
        container["env"].append({"name": "WHO", "value": name})
        former.put(self.api, made)
        await until(lambda: f"{name}-0" in self.api.objects.get(PODS, {}))
        return name

    async def run(self, name: str, *flags: str) -> None:
        chosen = settings.load([*self._flags, "--selector", f"app={name}", *flags], settings.Adoption)
        assert isinstance(chosen, settings.Adoption)
        await adopting.run(chosen, lambda _: None)

    def starts(self, name: str) -> int:
        """How often a pod of that sandbox has started."""
        return sum(env["WHO"] == name for _, env in self.api.starts)

    def objects(self, name: str) -> dict[str, dict[str, Any]]:
        """What there is of it, without its pod and its Secrets."""
        found = {where: self.api.objects[where] for where in LASTING}
        return {
            one["metadata"]["uid"]: one["spec"]
            for objects in found.values()
            for one in objects.values()
            if name in str(one)
        }


@pytest.fixture
async def move(api: ScriptedApi, make_service: Callable[..., Service], tmp_path: Path) -> Move:
    flags = ("--engine", "kubernetes", "--kubeconfig", str(api.kubeconfig(tmp_path)), "--namespaces", "default")
    service = make_service(*flags)
    return Move(api, await asyncio.to_thread(service.start), flags)


async def test_killed_at_each_write_of_a_takeover_it_replaces_the_pod_once(move: Move) -> None:
    async with AsyncClient(move.service.address, timeout=WITHIN) as client:
        for position in itertools.count():
            name = await move.prepare(position)
            before = move.objects(name)
            move.killer.arm(position)
            await move.run(name, "--restart", "now")
            await client.wait_until(name, "RUNNING", timeout=WITHIN)
            assert move.objects(name).keys() == before.keys()
            assert move.starts(name) == 2
            assert move.api.env(move.api.objects[PODS][f"{name}-0"])["WHO"] == name
            assert "sk-former-canary" not in str(move.api.objects[SETS][name]["spec"])
            if not await move.killer.struck():
                break
    # The Service, the Secret, two Ingresses, and the StatefulSet, first its managers. But for it, what is there is first tried
    # as a new object. A busy machine may have one written again, since the service has not seen yet what became of it.
    assert position >= 10


async def test_killed_at_each_write_that_marks_it_changes_nothing_else(move: Move) -> None:
    async with AsyncClient(move.service.address, timeout=WITHIN) as client:
        for position in itertools.count():
            name = await move.prepare(position)
            before = move.objects(name)
            move.killer.arm(position)
            await move.run(name)
            await client.wait_until(name, "RUNNING", timeout=WITHIN)
            assert move.objects(name) == before
            assert move.starts(name) == 1
            if not await move.killer.struck():
                break
    # The Service, the Secret, two Ingresses, the StatefulSet and its pod.
    assert position == 11


async def test_killed_at_each_write_of_the_way_back_it_leaves_everything_as_it_was(move: Move) -> None:
    async with AsyncClient(move.service.address, timeout=WITHIN) as client:
        for position in itertools.count():
            name = await move.prepare(position)
            before = move.objects(name)
            await move.run(name)
            await client.wait_until(name, "RUNNING", timeout=WITHIN)
            move.killer.arm(position)
            await move.run(name, "--undo")
            await client.wait_until(name, "TERMINATED", timeout=WITHIN)
            assert move.objects(name) == before
            assert move.starts(name) == 1
            assert not [one for one in move.api.objects[SECRETS] if one.startswith(name)]
            for where in (*LASTING, PODS):
                marked = [
                    one
                    for one in move.api.objects[where]
                    if name in one and "sandbox.full" in str(move.api.objects[where][one])
                ]
                assert marked == []
            if not await move.killer.struck():
                break
    assert position == 7
