"""Controllers that undo what the service writes, each time: few writes, and a status that names them."""

import asyncio
import contextlib
import dataclasses
import math
import time
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Sandbox

from tests.support.rig import FAST, A, Rig
from tests.support.scripted import CLAIMS, INGRESSES, SERVICES, SETS, until, writes
from tests.support.scripted_api import ScriptedApi

pytestmark = [pytest.mark.find(21), pytest.mark.fault(67)]
FIRST = Pace.retry_first / 4
"""The first delay here: long beside the time that an act takes."""
WHILE = 15 * FIRST
Undo = Callable[[ScriptedApi], None]


@pytest.fixture
def pace() -> Pace:
    return dataclasses.replace(FAST, retry_first=FIRST, retry_most=Pace.retry_most / 4)


@contextlib.asynccontextmanager
async def fought(api: ScriptedApi, undo: Undo) -> AsyncIterator[None]:
    """A controller that does so whenever it can."""

    async def fight() -> None:
        while True:
            undo(api)
            await asyncio.sleep(0.002)

    task = asyncio.create_task(fight())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def scale(replicas: int) -> Undo:
    def undo(api: ScriptedApi) -> None:
        found = api.objects.get(SETS, {}).get(A)
        if found is not None and found["spec"]["replicas"] != replicas:
            api.edit(SETS, A, "keda-operator", replicas=replicas)
            api.control("default", A)

    return undo


def changes(collection: str, name: str, field: str, value: object) -> Undo:
    def undo(api: ScriptedApi) -> None:
        found = api.objects.get(collection, {}).get(name)
        if found is not None and found["spec"].get(field) != value:
            api.edit(collection, name, "their-controller", **{field: value})

    return undo


def acts(api: ScriptedApi, since: int, name: str) -> int:
    return sum(one == name for _, one in writes(api)[since:])


def most(began: float) -> int:
    """The most acts since then: three without a delay, and those after 1, 2, 4 and so on times half of `FIRST`, with one to spare."""
    return 4 + int(math.log2(1 + (time.monotonic() - began) / (FIRST / 2)))


def contested(sandbox: Sandbox) -> bool:
    return sandbox.status.reason is Reason.FIELD_CONFLICT


@pytest.mark.slow
async def test_replicas_that_are_taken_back_each_time_cost_few_writes_and_name_their_manager(
    rig: Rig, api: ScriptedApi
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    since, began = len(writes(api)), time.monotonic()
    async with fought(api, scale(0)):
        failed = await rig.until(A, contested)
        assert failed.status.phase is Phase.ERROR
        words = f"keda-operator changes spec.replicas of the StatefulSet {A} each time the service sets it"
        assert failed.status.message == words
        before = len(rig.history)
        await asyncio.sleep(WHILE)
        assert acts(api, since, A) <= most(began)
        assert {(one.status.phase, one.status.reason) for one in rig.history[before:]} <= {
            (Phase.ERROR, Reason.FIELD_CONFLICT)
        }
    after = await rig.settled(A, Phase.RUNNING)
    assert after.status.reason in (Reason.READY, Reason.FIELD_CONFLICT)


@pytest.mark.parametrize(
    "pace", [dataclasses.replace(FAST, retry_first=Pace.retry_first, retry_most=Pace.retry_most)], ids=["production"]
)
@pytest.mark.slow
async def test_mutation_is_acted_on_at_once_while_a_field_is_contested(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    async with fought(api, scale(0)):
        await rig.until(A, contested)
        await asyncio.sleep(1)
        changed = await rig.env(A, B="2")
        since = len(writes(api))
        await until(lambda: acts(api, since, A) > 0, within=1)
        assert changed.generation == 2
        await rig.begin(A, Phase.STOPPED)
        await rig.settled(A, Phase.STOPPED, within=5)
    assert (await rig.get(A)).status.reason is Reason.POD_GONE


@pytest.mark.slow
async def test_stop_and_delete_name_the_manager_that_scales_up_again(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    async with fought(api, scale(1)):
        for begin in (lambda: rig.begin(A, Phase.STOPPED), lambda: rig.delete(A)):
            since, began = len(writes(api)), time.monotonic()
            await begin()
            failed = await rig.until(A, contested)
            assert "keda-operator changes spec.replicas" in failed.status.message
            await asyncio.sleep(WHILE)
            assert acts(api, since, A) <= most(began)
    await rig.settled(A, Phase.TERMINATED)


@pytest.mark.slow
async def test_apply_that_cannot_be_done_is_contested_too(rig: Rig, api: ScriptedApi) -> None:
    """A claim has to be removed before a fresh one is made, and somebody who scales the workload up prevents that."""
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    claim = api.objects[CLAIMS][f"vn-homevn-agent-{A}-0"]
    api.put(CLAIMS, claim | {"status": claim["status"] | {"phase": "Lost"}})
    await rig.until(A, lambda one: one.status.reason is Reason.VOLUME_LOST)

    async def kept(_: web.Request) -> web.StreamResponse:
        return web.json_response(claim)

    api.lasting.append((lambda request: request.method == "DELETE" and "claims/" in request.path, kept))
    async with fought(api, scale(1)):
        since, began = len(writes(api)), time.monotonic()
        await rig.manager.start(rig.mutation(A), accept_data_loss=True)
        await asyncio.sleep(WHILE)
        assert acts(api, since, A) <= 2 * most(began)
    api.lasting.clear()
    await rig.settled(A, Phase.RUNNING, within=60)


@pytest.mark.parametrize(
    ("undo", "name", "words"),
    [
        (
            changes(SERVICES, f"{A}-service", "publishNotReadyAddresses", False),
            f"{A}-service",
            f"their-controller changes spec.publishNotReadyAddresses of the Service {A}-service each time",
        ),
        (
            changes(INGRESSES, f"{A}-app-ingress", "ingressClassName", "theirs"),
            f"{A}-app-ingress",
            f"their-controller changes spec.ingressClassName of the Ingress {A}-app-ingress each time",
        ),
        (
            lambda api: api.delete(INGRESSES, f"{A}-ttyd-ingress"),
            f"{A}-ttyd-ingress",
            f"somebody removes the Ingress {A}-ttyd-ingress each time the service makes it",
        ),
        (
            changes(SETS, A, "updateStrategy", {"type": "OnDelete"}),
            A,
            f"their-controller changes spec.updateStrategy.type of the StatefulSet {A} each time",
        ),
    ],
    ids=["service", "ingress", "removed", "stateful-set"],
)
@pytest.mark.slow
async def test_every_object_that_is_undone_each_time_costs_few_writes_while_the_pod_is_ready(
    rig: Rig, api: ScriptedApi, undo: Undo, name: str, words: str
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    since, begun, began = len(writes(api)), len(rig.history), time.monotonic()
    async with fought(api, undo):
        running = await rig.until(A, contested)
        assert running.status.phase is Phase.RUNNING
        assert words in running.status.message
        await asyncio.sleep(WHILE)
        assert acts(api, since, name) <= most(began)
    assert {one.status.phase for one in rig.history[begun:]} == {Phase.RUNNING}


@pytest.mark.parametrize("pace", [dataclasses.replace(FAST, retry_most=0.5, contest_quiet=1)], ids=["soon quiet"])
@pytest.mark.slow
async def test_contest_is_over_once_it_has_been_quiet(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    async with fought(api, changes(SERVICES, f"{A}-service", "publishNotReadyAddresses", False)):
        await rig.until(A, contested)
    await rig.until(A, lambda one: one.status.reason is Reason.READY, within=10)


async def test_edits_by_hand_are_put_back_at_once_and_are_no_contest(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    for _ in range(2):
        api.edit(SERVICES, f"{A}-service", publishNotReadyAddresses=False)
        await until(lambda: api.objects[SERVICES][f"{A}-service"]["spec"]["publishNotReadyAddresses"], within=5)
    assert not any(map(contested, rig.history))
