"""The Kubernetes engine and an API server that answers "not now" for long."""

import asyncio

import pytest
from aiohttp import web
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase, Reason

from tests.support.rig import BUSY_SOON, A, Rig
from tests.support.scripted import CLAIM, CLAIMS, INGRESSES, SERVICES, SETS, UNANSWERED, hang, lose, until, writes
from tests.support.scripted_api import ScriptedApi, status

WORDS = 'failed calling webhook "w": no endpoints available'


@pytest.fixture
def pace() -> Pace:
    return BUSY_SOON


def refuse(api: ScriptedApi, code: int, *methods: str, headers: dict[str, str] | None = None) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return status(code, WORDS, **(headers or {}))

    api.lasting.append((lambda request: request.method in methods, answer))


@pytest.mark.fault(54)
@pytest.mark.find(2)
@pytest.mark.parametrize("code", [409, 429, 500, 503])
@pytest.mark.slow
async def test_a_create_that_the_cluster_cannot_take_now_says_so_and_recovers(
    rig: Rig, api: ScriptedApi, code: int
) -> None:
    refuse(api, code, "PATCH")
    await rig.create(A)
    failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR, within=10)
    assert failed.status.reason is Reason.CLUSTER_BUSY
    assert WORDS in failed.status.message
    assert str(code) in failed.status.message
    api.lasting.clear()
    await rig.settled(A, Phase.RUNNING)


@pytest.mark.fault(54)
@pytest.mark.find(2)
@pytest.mark.parametrize(("stop", "phase"), [(True, Phase.STOPPING), (False, Phase.TERMINATING)])
@pytest.mark.slow
async def test_a_stop_or_delete_that_the_cluster_cannot_take_now_says_so_and_ends(
    rig: Rig, api: ScriptedApi, stop: bool, phase: Phase
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    refuse(api, 500, "PATCH", "DELETE")
    await (rig.begin(A, Phase.STOPPED) if stop else rig.delete(A))
    busy = await rig.until(A, lambda one: one.status.reason is Reason.CLUSTER_BUSY, within=10)
    assert busy.status.phase is phase
    assert WORDS in busy.status.message
    api.lasting.clear()
    await rig.settled(A, Phase.STOPPED if stop else Phase.TERMINATED)


@pytest.mark.fault(54)
@pytest.mark.find(2)
async def test_a_long_retry_after_is_reported_at_once(rig: Rig, api: ScriptedApi) -> None:
    refuse(api, 429, "PATCH", headers={"Retry-After": "60"})
    await rig.create(A)
    failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR, within=10)
    assert failed.status.reason is Reason.CLUSTER_BUSY


@pytest.mark.fault(54)
@pytest.mark.find(2)
@pytest.mark.slow
async def test_what_is_observed_is_reported_while_the_cluster_asks_to_be_left_alone(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    refuse(api, 429, "PATCH", headers={"Retry-After": "60"})
    asked = len(writes(api)) + 1
    api.edit(SETS, A, replicas=0)
    await until(lambda: len(writes(api)) >= asked)
    lose(api)
    await rig.until(A, lambda one: one.status.reason is Reason.VOLUME_LOST, within=5)
    await rig.env(A, B="2")
    await asyncio.sleep(1)
    assert len(writes(api)) == asked


@pytest.mark.fault(54)
@pytest.mark.find(2)
@pytest.mark.parametrize("answered_within", [UNANSWERED])
@pytest.mark.slow
async def test_no_answer_changes_no_status(rig: Rig, api: ScriptedApi) -> None:
    api.lasting.append((lambda request: request.method == "PATCH", hang))
    await rig.create(A)
    await asyncio.sleep(5)
    assert (await rig.get(A)).status.reason in (Reason.ACCEPTED, Reason.WORKLOAD_PENDING)


@pytest.mark.fault(54)
@pytest.mark.find(2)
@pytest.mark.slow
async def test_lists_that_the_cluster_cannot_answer_now_are_the_reason(rig: Rig, api: ScriptedApi) -> None:
    refuse(api, 500, "GET")
    await rig.restart()
    await rig.create(A)
    failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR, within=10)
    assert failed.status.reason is Reason.CLUSTER_BUSY
    assert WORDS in failed.status.message
    api.lasting.clear()
    await rig.settled(A, Phase.RUNNING)


@pytest.mark.fault(54)
@pytest.mark.find(2)
@pytest.mark.parametrize(
    ("collection", "name"), [(INGRESSES, f"{A}-app-ingress"), (SERVICES, f"{A}-service"), (SETS, A), (CLAIMS, CLAIM)]
)
@pytest.mark.slow
async def test_a_former_owners_object_that_hangs_on_a_finalizer_is_named(
    rig: Rig, api: ScriptedApi, collection: str, name: str
) -> None:
    going = {"name": name, "deletionTimestamp": "2026-01-02T03:04:05Z", "finalizers": ["example.com/balancer"]}
    api.put(collection, {"metadata": going | {"annotations": {"sandbox.fullstackagent.io/uid": "former"}}})
    await rig.create(A)
    failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR, within=10)
    assert failed.status.reason is Reason.CLUSTER_BUSY
    assert name in failed.status.message
    assert "example.com/balancer" in failed.status.message
    api.delete(collection, name)
    await rig.settled(A, Phase.RUNNING)
