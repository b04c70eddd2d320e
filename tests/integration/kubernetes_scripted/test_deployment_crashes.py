"""The service is killed at each of its writes for a Deployment that is moved, and the command while it adopts."""

import asyncio
import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sandbox_client import AsyncClient

from tests.support import former_objects as former
from tests.support import homes, programs
from tests.support.former_objects import DEPLOYMENTS, REPLICA_SETS
from tests.support.killer import Killer
from tests.support.scripted import CLAIMS, INGRESSES, PODS, SERVICES, SETS, until
from tests.support.scripted_api import ScriptedApi
from tests.support.service import Service

WITHIN = 60.0
# Many starts of the service each.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Move:
    """A service that is killed, and Deployments for it: one for each position."""

    def __init__(self, api: ScriptedApi, service: Service, flags: tuple[str, ...]) -> None:
        self.api, self.service = api, service
        self.killer = Killer(api, service)
        self._flags = (*flags, "--data-dir", str(service.folder / "data"), "--namespace", "default")

    def prepare(self, position: int) -> tuple[str, Path]:
        """Makes a Deployment; its name, and the home of its pod."""
        name = f"p{position}-agentruntime-y{position:05d}"
        former.put(self.api, former.objects("deployment.yaml", name))
        home = self.api.kubelet.home(former.pod_of(self.api, name))
        homes.fill(home)
        return name, home

    async def run(self, name: str, *flags: str, **env: str) -> "dict[str, Any] | None":
        """The report of the command; None if it was killed."""
        words = ("adopt", *self._flags, "--selector", f"app={name}", "--output", "json", *flags)
        done = await asyncio.to_thread(programs.run, "sandbox-server", *words, env={**os.environ, **env})
        assert done.returncode in ((-signal.SIGKILL,) if env else (0,)), done.stderr
        return None if env else json.loads(done.stdout)

    def disk(self, name: str) -> Path:
        return self.api.kubelet.disk(self.api.objects[CLAIMS][f"vn-homevn-agent-{name}-0"]["metadata"]["uid"])

    def of(self, name: str) -> dict[str, Any]:
        """What there is of it: the uids and the specs."""
        return {
            f"{where}/{found}": (one["metadata"]["uid"], one.get("spec"))
            for where in (DEPLOYMENTS, REPLICA_SETS, PODS, SERVICES, INGRESSES, CLAIMS, SETS)
            for found, one in self.api.objects.get(where, {}).items()
            if name in str(one)
        }


@pytest.fixture
async def move(api: ScriptedApi, make_service: Callable[..., Service], tmp_path: Path) -> Move:
    flags = ("--engine", "kubernetes", "--kubeconfig", str(api.kubeconfig(tmp_path)), "--namespaces", "default")
    service = make_service(*flags)
    return Move(api, await asyncio.to_thread(service.start), flags)


async def test_killed_at_each_write_of_a_move_it_loses_no_file(move: Move) -> None:
    async with AsyncClient(move.service.address, timeout=WITHIN, contact_timeout=WITHIN) as client:
        for position in itertools.count():
            name, home = move.prepare(position)
            files = homes.snapshot(home)
            move.killer.arm(position)
            assert await move.run(name, "--restart", "now")
            await client.wait_until(name, "RUNNING", timeout=WITHIN)
            await until(lambda name=name: name not in move.api.objects[DEPLOYMENTS], within=WITHIN)  # type: ignore[misc]
            await until(lambda name=name: [one for one in move.api.objects[PODS] if name in one] == [f"{name}-0"])  # type: ignore[misc]
            assert homes.snapshot(move.disk(name)) == files
            if not await move.killer.struck():
                break
    assert position > 12


async def test_killed_at_each_write_of_the_way_back_it_leaves_everything_as_it_was(move: Move) -> None:
    async with AsyncClient(move.service.address, timeout=WITHIN, contact_timeout=WITHIN) as client:
        for position in itertools.count():
            name, home = move.prepare(position)
            files, before = homes.snapshot(home), move.of(name)
            move.api.crashing.add(name)
            await move.run(name, "--restart", "now")
            await client.wait_until(name, "ERROR", timeout=WITHIN)
            move.killer.arm(position)
            await move.run(name, "--undo")
            await client.wait_until(name, "TERMINATED", timeout=WITHIN)
            await until(lambda name=name, before=before: move.of(name) == before)  # type: ignore[misc]
            assert homes.snapshot(home) == files
            if not await move.killer.struck():
                break
    assert position > 6


@pytest.mark.parametrize("place", ["before_commit", "after_commit"])
async def test_the_command_that_was_killed_is_completed_by_the_next(move: Move, place: str) -> None:
    name, home = move.prepare(0)
    files = homes.snapshot(home)
    assert await move.run(name, "--restart", "now", SANDBOX_FAILPOINTS=f"{place}=kill") is None
    again = await move.run(name, "--restart", "now")
    assert again is not None
    (entry,) = again["results"]
    assert entry["outcome"] == ("adopted" if place == "before_commit" else "unchanged")
    async with AsyncClient(move.service.address, timeout=WITHIN, contact_timeout=WITHIN) as client:
        await client.wait_until(name, "RUNNING", timeout=WITHIN)
    assert homes.snapshot(move.disk(name)) == files
