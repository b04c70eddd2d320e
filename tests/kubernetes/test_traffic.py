"""What the service asks of the API server, counted in its audit log."""

import asyncio
import dataclasses
import time
from collections import Counter
from pathlib import Path

from sandbox_server.domain.phase import Phase
from sandbox_server.engines import kubernetes

from tests.kubernetes.ground import KubernetesGround
from tests.support.rig import Rig

A = "traffic-a"
WRITES = {"create", "update", "patch", "delete", "deletecollection"}
FLEET, OF_THEM_RUNNING = 1000, 100
MANY = 50
RESYNC, NEVER = 5.0, 3600.0
EVENT_INFORMERS = 2
"""Informers of a namespace that list Events: of pods and of claims."""


def calls(ground: KubernetesGround, since: int = 0) -> Counter[tuple[str, str]]:
    """How often the service has done what: (verb, resource)."""
    made = ground.cluster.audited(ground.namespace)[since:]
    return Counter((one["verb"], one["objectRef"]["resource"]) for one in made)


async def test_a_create_costs_at_most_six_writes(rig: Rig, ground: KubernetesGround) -> None:
    await rig.create(A, {"A": "1"})
    await rig.settled(A, Phase.RUNNING)
    await asyncio.sleep(1)
    asked = calls(ground)
    assert 0 < sum(count for (verb, _), count in asked.items() if verb in WRITES) <= 6
    print(f"a create: {dict(asked)}")


async def test_writes_that_name_a_version_seldom_conflict(rig: Rig, ground: KubernetesGround) -> None:
    names = [f"busy-{number}" for number in range(MANY)]
    began = time.monotonic()
    await asyncio.gather(*(rig.create(name, {"A": "1"}) for name in names))
    for name in names:
        await rig.settled(name, Phase.RUNNING, 120)
    for act, phase in (
        (lambda name: rig.env(name, A="2"), Phase.RUNNING),
        (lambda name: rig.begin(name, Phase.STOPPED), Phase.STOPPED),
        (lambda name: rig.begin(name, Phase.RUNNING), Phase.RUNNING),
        (rig.delete, Phase.TERMINATED),
    ):
        await asyncio.gather(*map(act, names))
        for name in names:
            await rig.settled(name, phase, 120)
    await asyncio.sleep(1)
    conflicts = [one for one in ground.cluster.audited(ground.namespace) if one["responseStatus"]["code"] == 409]
    outdated = rig.reconciler.outcomes["outdated", ""]
    took = time.monotonic() - began
    print(f"{5 * MANY} acts in {took:.1f} s: {len(conflicts)} conflicts, {outdated} times decided again")
    assert len(conflicts) <= 0.1 * 5 * MANY


async def test_an_idle_fleet_of_a_thousand_costs_no_requests_but_its_watches(
    apart: KubernetesGround, tmp_path: Path
) -> None:
    # The lists that informers make now and then have their own tests: none is due here.
    never = dataclasses.replace(apart.settings.pace, resync=NEVER)
    rig = Rig(
        apart,
        tmp_path,
        resync=RESYNC,
        engine=lambda: kubernetes.KubernetesEngine(apart.settings.kubernetes, never, "image"),
    )
    names = [f"fleet-{number}" for number in range(FLEET)]
    phases = {name: Phase.RUNNING if number < OF_THEM_RUNNING else Phase.STOPPED for number, name in enumerate(names)}

    async def mutate(name: str) -> None:
        await rig.create(name, {"A": "1"})
        if phases[name] is Phase.STOPPED:
            await rig.begin(name, Phase.STOPPED)

    # While the API server stands still nothing is started that is to be stopped.
    apart.cluster.pause("kube-apiserver")
    try:
        await rig.start()
        await asyncio.gather(*map(mutate, names))
    finally:
        apart.cluster.resume("kube-apiserver")
    try:
        for name, phase in phases.items():
            await rig.settled(name, phase, 300)
            await rig.until(name, lambda one: one.status.volume is not None and one.status.volume.bound, 300)
        await asyncio.sleep(2)
        assert len(apart.names("statefulsets", "apis/apps/v1")) == FLEET
        assert len(apart.names("pods")) == OF_THEM_RUNNING
        told, before = len(rig.history), len(apart.cluster.audited(apart.namespace))
        await asyncio.sleep(2.5 * RESYNC)
        asked = calls(apart, before)
        print(f"{FLEET} sandboxes, idle for {2.5 * RESYNC:.0f} s: {dict(asked)}")
        # The API server sends no bookmarks of Events: a watch of them that says nothing for `cluster-silence`, 90 s, is taken for
        # dead, and begun anew with a list.
        assert {verb for verb, resource in asked if resource != "events"} <= {"watch"}
        assert asked["list", "events"] <= EVENT_INFORMERS
        assert len(rig.history) == told
    finally:
        await rig.stop()
