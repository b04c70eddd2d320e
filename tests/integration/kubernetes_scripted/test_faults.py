"""The Kubernetes engine against the scripted API server: rows of the fault table."""

import asyncio
import copy
import itertools
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from sandbox_server.domain import remedy
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import ConditionType, Phase, Reason
from sandbox_server.domain.sandbox import Sandbox

from tests.support import samples
from tests.support.rig import FAST, A, Rig
from tests.support.scripted import (
    CLAIM,
    CLAIMS,
    DENIED,
    EVENTS,
    INGRESSES,
    PODS,
    SECRETS,
    SERVICES,
    SETS,
    TIMES,
    UNANSWERED,
    ScriptedGround,
    event,
    hang,
    is_watch,
    looked_up,
    started,
    until,
    until_looked_up,
    until_secret,
    writes,
)
from tests.support.scripted_api import ScriptedApi, status


async def test_a_create_costs_six_writes_in_order_and_an_idle_sandbox_none(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    names = [f"{A}-service", f"vn-homevn-agent-{A}-0", f"{A}-env-1", f"{A}-app-ingress", f"{A}-ttyd-ingress", A]
    assert writes(api) == [("PATCH", one) for one in names]
    assert looked_up(api, 0) == []
    count = len(api.calls)
    rig.reconciler.wake(rig.key(A))
    await asyncio.sleep(0.3)
    assert {method for method, _ in api.calls[count:]} <= {"WATCH"}


@pytest.mark.slow
async def test_what_is_remembered_is_not_looked_up_and_a_secret_is_once_after_a_restart(
    rig: Rig, api: ScriptedApi
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    for generation, restarted in ((2, False), (3, True), (4, False)):
        count = len(api.calls)
        if restarted:
            await rig.restart()
            # A former holder may have made it late.
            await until_looked_up(api, count, [f"{A}-env-1"])
            count = len(api.calls)
        await rig.env(A, A=str(count))
        await rig.settled(A, Phase.RUNNING)
        await until_secret(api, f"{A}-env-{generation}")
        assert looked_up(api, count) == ([f"{A}-env-{generation - 1}"] if restarted else [])


@pytest.mark.fault(14)
@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("code", [500, 503])
@pytest.mark.slow
async def test_an_error_on_any_call_is_backed_off_from(rig: Rig, api: ScriptedApi, number: int, code: int) -> None:
    await until(lambda: rig.engine.any_synced)
    seen = 0

    def matches(request: web.Request) -> bool:
        nonlocal seen
        seen += not is_watch(request)
        return seen == number + 1

    async def fail(_: web.Request) -> web.StreamResponse:
        return status(code, "broken")

    api.once(matches, fail)
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    rig.check_history()


@pytest.mark.fault(15)
@pytest.mark.slow
async def test_retry_after_is_obeyed_and_status_is_served_meanwhile(rig: Rig, api: ScriptedApi) -> None:
    refused: list[float] = []

    async def throttle(_: web.Request) -> web.StreamResponse:
        refused.append(time.monotonic())
        return web.Response(status=429, text="slow down", headers={"Retry-After": "1"})

    api.once(lambda request: request.method == "PATCH", throttle)
    made = await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    assert made.status.phase is Phase.CREATING
    assert time.monotonic() - refused[0] >= 1
    assert len(refused) == 1
    assert len(writes(api)) == 7


@pytest.mark.fault(16)
@pytest.mark.parametrize("answered_within", [UNANSWERED])
@pytest.mark.slow
async def test_a_call_that_never_answers_is_cut_and_others_go_on(rig: Rig, api: ScriptedApi) -> None:
    api.once(lambda request: request.method == "PATCH" and request.path.endswith(f"{A}-env-1"), hang)
    await rig.create(A)
    await rig.create("suite-b")
    await rig.settled("suite-b", Phase.RUNNING)
    assert (await rig.get(A)).status.phase is not Phase.RUNNING
    await rig.settled(A, Phase.RUNNING)


@pytest.mark.fault(17)
@pytest.mark.parametrize("written", [False, True])
@pytest.mark.slow
async def test_a_reset_before_or_after_the_write_is_no_conflict(rig: Rig, api: ScriptedApi, written: bool) -> None:
    async def reset(request: web.Request) -> web.StreamResponse | None:
        if written:
            await api.obey(request)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    api.once(lambda request: request.method == "PATCH" and request.path.endswith(f"/{A}"), reset)
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    assert len(api.objects[SETS]) == len(api.objects[PODS]) == len(api.objects[CLAIMS]) == 1


@pytest.mark.fault(18)
@pytest.mark.slow
async def test_mutations_are_accepted_while_the_api_server_is_gone_and_status_is_stale(
    rig: Rig, api: ScriptedApi
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    await api.stop()
    await until(lambda: rig.stale)
    assert (await rig.get(A)).status.phase is Phase.RUNNING
    await rig.create("suite-b")
    await rig.begin(A, Phase.STOPPED)
    await api.start()
    await rig.settled(A, Phase.STOPPED)
    await rig.settled("suite-b", Phase.RUNNING)
    assert not rig.stale


@pytest.mark.fault(19)
@pytest.mark.parametrize("form", ["http", "stream"])
@pytest.mark.slow
async def test_expired_version_is_listed_again_and_each_change_reported_once(
    rig: Rig, api: ScriptedApi, form: str
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    if form == "http":
        api.oldest = api.version + 1000
        api.tell("", "ERROR", {"code": 500, "message": "closing"})
        await asyncio.sleep(1)
        api.oldest = 0
    else:
        api.tell("", "ERROR", {"code": 410, "message": "too old"})
    api.version += 1
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    rig.check_history()
    events = [one.status for one in rig.history]
    assert all(before != after for before, after in itertools.pairwise(events))


@pytest.mark.fault(20)
@pytest.mark.slow
async def test_a_silent_watch_is_noticed(rig: Rig, api: ScriptedApi) -> None:
    await until(lambda: rig.engine.any_synced)
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)

    async def mute(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        await asyncio.sleep(20)
        return stream

    for _ in range(8):
        api.once(is_watch, mute)
    api.tell("", "ERROR", {"code": 500, "message": "closing"})
    await asyncio.sleep(0.5)
    api.delete(PODS, f"{A}-0")
    await rig.until(A, lambda one: one.status.phase is not Phase.RUNNING, within=10)


@pytest.mark.fault(20)
@pytest.mark.parametrize("answered_within", [UNANSWERED])
@pytest.mark.slow
async def test_an_api_server_that_takes_calls_and_answers_none_is_out_of_sight(rig: Rig, api: ScriptedApi) -> None:
    await until(lambda: rig.engine.any_synced)
    api.lasting.append((is_watch, hang))
    await until(lambda: not rig.engine.any_synced)
    api.lasting.clear()
    await until(lambda: rig.engine.any_synced)


@pytest.mark.fault(19)
@pytest.mark.fault(20)
@pytest.mark.parametrize("how", ["ended at once", "always too old", "garbage"])
# How often it tries again is the subject.
@pytest.mark.parametrize("pace", [Pace()], ids=["production"])
@pytest.mark.slow
async def test_a_watch_that_never_lasts_is_no_hot_loop(rig: Rig, api: ScriptedApi, how: str) -> None:
    await until(lambda: rig.engine.any_synced)

    async def end(request: web.Request) -> web.StreamResponse:
        if how == "always too old":
            return status(410, "too old resource version")
        stream = web.StreamResponse()
        await stream.prepare(request)
        await stream.write(b"{nonsense\n" if how == "garbage" else b"\n")
        return stream

    api.lasting.append((is_watch, end))
    count = len(api.calls)
    api.tell("", "ERROR", {"code": 500, "message": "closing"})
    await asyncio.sleep(3)
    informers = 8
    assert informers < len(api.calls) - count <= informers * 6 * 2
    api.lasting.clear()
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)


@pytest.mark.slow
async def test_unforeseen_error_ends_no_watch(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    failures = iter([RuntimeError("the token cannot be read")] * 8)

    def hook(_: object) -> None:
        if error := next(failures, None):
            raise error

    rig.engine._api._account.refresh_api_key_hook = hook  # type: ignore[attr-defined]
    api.tell("", "ERROR", {"code": 500, "message": "closing"})
    await asyncio.sleep(0.5)
    api.delete(PODS, f"{A}-0")
    await rig.until(A, lambda one: one.status.phase is not Phase.RUNNING, within=10)


@pytest.mark.fault(21)
@pytest.mark.slow
async def test_late_and_repeated_events_have_no_effect(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    await asyncio.sleep(0.2)
    count = len(rig.history)
    old = [one for one in api.history if one[1] == PODS]
    for _, collection, kind, value in old:
        api.version += 1
        api.tell(collection, kind, value)
    await asyncio.sleep(0.5)
    assert len(rig.history) == count
    assert (await rig.get(A)).status.phase is Phase.RUNNING


@pytest.mark.fault(22)
@pytest.mark.slow
async def test_secret_that_goes_with_a_removed_service_comes_back_with_it(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A, {"A": "1"})
    await rig.settled(A, Phase.RUNNING)
    secret, service = api.objects[SECRETS][f"{A}-env-1"], api.objects[SERVICES][f"{A}-service"]
    (pod,) = api.objects[PODS].values()
    api.delete(SERVICES, f"{A}-service")
    await until(lambda: f"{A}-service" in api.objects[SERVICES] and f"{A}-env-1" in api.objects[SECRETS])
    await rig.settled(A, Phase.RUNNING)
    await asyncio.sleep(0.2)
    successor = api.objects[SECRETS][f"{A}-env-1"]
    assert successor["data"] == secret["data"]
    (owner,) = successor["metadata"]["ownerReferences"]
    assert owner["uid"] == api.objects[SERVICES][f"{A}-service"]["metadata"]["uid"] != service["metadata"]["uid"]
    assert list(api.objects[PODS].values()) == [pod]


@pytest.mark.fault(21)
@pytest.mark.fault(22)
@pytest.mark.slow
async def test_drift_is_repaired_once_even_if_it_is_reported_late_and_often(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    one_apply = [(method, name) for method, name in writes(api) if not name.startswith("vn-")]
    for mend, change in (
        (1, lambda: api.delete(INGRESSES, f"{A}-app-ingress")),
        (2, lambda: api.delete(INGRESSES, f"{A}-ttyd-ingress")),
        (3, lambda: api.edit(SERVICES, f"{A}-service", publishNotReadyAddresses=False)),
        (4, lambda: api.edit(SETS, A, updateStrategy={"type": "OnDelete"})),
    ):
        change()
        await until(lambda mend=mend: len(writes(api)) >= 1 + 5 * (mend + 1))
        await rig.settled(A, Phase.RUNNING)
    for _, collection, kind, value in [one for one in api.history if one[1] in (SERVICES, INGRESSES, SETS)]:
        if kind != "DELETED":
            api.version += 1
            api.tell(collection, kind, value)
    api.edit(SERVICES, f"{A}-service", theirs=True)
    await asyncio.sleep(1)
    assert [one for one in writes(api) if one != ("PATCH", CLAIM)] == one_apply * 5
    assert writes(api).count(("PATCH", CLAIM)) == 1
    assert (
        api.objects[SERVICES][f"{A}-service"]["spec"] | {"theirs": True, "publishNotReadyAddresses": True}
        == (api.objects[SERVICES][f"{A}-service"]["spec"])
    )


@pytest.mark.slow
async def test_a_conflict_is_no_error_of_the_sandbox(rig: Rig, api: ScriptedApi) -> None:
    async def conflict(_: web.Request) -> web.StreamResponse:
        return status(409, "the object has been modified; please apply your changes to the latest version")

    api.once(lambda request: request.method == "PATCH" and request.path.endswith(f"/{A}"), conflict)
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    assert Phase.ERROR not in {one.status.phase for one in rig.history}


@pytest.mark.slow
async def test_a_watch_for_each_of_many_namespaces_leaves_room_for_calls(api: ScriptedApi, tmp_path: Path) -> None:
    ground = ScriptedGround(api, tmp_path)
    namespaces = ",".join(["default", *(f"tenant-{number}" for number in range(20))])
    ground.settings = ground.settings.model_copy(update={"cluster_silence": 30.0, "namespaces": namespaces})
    async with started(Rig(ground, tmp_path)) as rig:
        await rig.create(A)
        await rig.settled(A, Phase.RUNNING)


@pytest.mark.find(41)
@pytest.mark.slow
async def test_namespace_that_is_followed_later_is_observed_at_once(api: ScriptedApi, tmp_path: Path) -> None:
    ground = ScriptedGround(api, tmp_path)
    ground.settings = ground.settings.model_copy(update={"namespaces": "other"})
    async with started(Rig(ground, tmp_path)) as rig:
        rig.engine.follow(("other", "default"))
        await rig.create(A)
        await rig.settled(A, Phase.RUNNING)
        assert Phase.ERROR not in {one.status.phase for one in rig.history}


@pytest.mark.slow
async def test_long_lists_are_paged(rig: Rig, api: ScriptedApi) -> None:
    api.page = 2
    for number in range(5):
        await rig.create(f"suite-{number}")
    for number in range(5):
        await rig.settled(f"suite-{number}", Phase.RUNNING)
    await rig.restart()
    for number in range(5):
        await rig.settled(f"suite-{number}", Phase.RUNNING)


@pytest.mark.fault(25)
@pytest.mark.slow
async def test_a_claim_that_lost_its_label_is_no_lost_disk_until_it_is_gone(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    ((name, claim),) = api.objects[CLAIMS].items()
    api.put(CLAIMS, claim | {"metadata": claim["metadata"] | {"labels": {}}})
    await asyncio.sleep(0.2)
    rig.reconciler.wake(rig.key(A))
    await asyncio.sleep(0.2)
    assert (await rig.get(A)).status.phase is Phase.RUNNING
    assert Phase.ERROR not in {one.status.phase for one in rig.history}
    api.delete(CLAIMS, name)
    await rig.until(A, lambda one: one.status.reason is Reason.VOLUME_LOST, within=5)


def stranger(api: ScriptedApi) -> str:
    """Somebody else's Service takes the name of ours, in one go; its version."""
    api.delete(SERVICES, f"{A}-service")
    theirs = api.put(SERVICES, {"metadata": {"name": f"{A}-service"}, "spec": {"theirs": True}})
    return str(theirs["metadata"]["resourceVersion"])


@pytest.mark.fault(24)
@pytest.mark.slow
async def test_foreign_claim_with_our_name_is_reported_by_its_name_alone(rig: Rig, api: ScriptedApi) -> None:
    name = f"vn-homevn-agent-{A}-0"
    theirs = api.put(CLAIMS, {"metadata": {"name": name}, "spec": {"resources": {"requests": {"storage": "9Gi"}}}})
    await rig.create(A)
    failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    assert failed.status.reason is Reason.NAME_CONFLICT
    assert f"{name} belongs to somebody else" in failed.status.message
    assert failed.status.volume is None
    assert api.objects[CLAIMS][name] == theirs
    api.delete(CLAIMS, name)
    await rig.settled(A, Phase.RUNNING)


@pytest.mark.fault(24)
@pytest.mark.parametrize("late", [False, True], ids=["before", "just before it is written"])
@pytest.mark.parametrize("made", [False, True], ids=["a create", "a change"])
@pytest.mark.slow
async def test_an_object_of_our_name_that_is_not_ours_is_untouched(
    rig: Rig, api: ScriptedApi, made: bool, late: bool
) -> None:
    if made:
        await rig.create(A)
        await rig.settled(A, Phase.RUNNING)
    workload = copy.deepcopy(api.objects.get(SETS, {}).get(A))
    versions: list[str] = []

    async def take(request: web.Request) -> None:
        versions.append(stranger(api))

    if late:
        api.once(lambda request: request.method == "PATCH" and request.path.startswith(f"/{SERVICES}"), take)
    else:
        versions.append(stranger(api))
    await (rig.env(A, A="1") if made else rig.create(A))
    failed = await rig.until(A, lambda one: one.status.reason is Reason.NAME_CONFLICT)
    assert failed.status.phase is Phase.ERROR
    assert [api.objects[SERVICES][f"{A}-service"]["metadata"]["resourceVersion"]] == versions
    # The workload is written last, so it is as it was.
    assert api.objects.get(SETS, {}).get(A) == workload
    api.delete(SERVICES, f"{A}-service")
    await rig.settled(A, Phase.RUNNING)


@pytest.mark.fault(24)
@pytest.mark.slow
async def test_an_object_of_our_name_that_is_on_its_way_out_is_waited_for(rig: Rig, api: ScriptedApi) -> None:
    """An Ingress controller holds one for as long as its load balancer is there."""
    name = f"{A}-app-ingress"
    going = {"name": name, "deletionTimestamp": "2026-01-02T03:04:05Z", "finalizers": ["example.com/balancer"]}
    api.put(INGRESSES, {"metadata": going | {"annotations": {"sandbox.fullstackagent.io/uid": "former"}}})
    await rig.create(A)
    await until(lambda: api.calls.count(("PATCH", f"/{INGRESSES}/{name}")) > 1)
    api.delete(INGRESSES, name)
    await rig.settled(A, Phase.RUNNING)
    assert Phase.ERROR not in {one.status.phase for one in rig.history}


@pytest.mark.slow
async def test_nothing_is_left_when_somebody_removes_the_workload_of_a_sandbox_that_is_being_deleted(
    rig: Rig, api: ScriptedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    # The pod takes its time to end.
    monkeypatch.setattr(api, "control", lambda *_: None)
    await rig.delete(A, keep=True)
    await rig.until(A, lambda one: one.applied_generation == one.generation)
    api.delete(SETS, A)
    api.delete(PODS, f"{A}-0")
    await rig.settled(A, Phase.TERMINATED)
    assert [name for found in api.objects.values() for name in found] == [f"vn-homevn-agent-{A}-0"]


@pytest.mark.fault(32)
@pytest.mark.parametrize("seen", ["watched", "listed"])
@pytest.mark.slow
async def test_of_two_events_the_later_counts_and_outlives_the_earlier(rig: Rig, api: ScriptedApi, seen: str) -> None:
    api.unmade.add(A)
    await rig.create(A)
    await until(lambda: A in api.objects.get(SETS, {}))
    found = api.objects[SETS][A]
    quota = 'create Pod p failed error: pods "p" is forbidden: exceeded quota: none'
    api.put(EVENTS, event("z-earlier", found, "StatefulSet", quota))
    if seen == "watched":
        await rig.until(A, lambda one: one.status.reason is Reason.QUOTA_EXCEEDED)
    api.put(EVENTS, event("a-later", found, "StatefulSet", DENIED))
    if seen == "listed":
        await rig.restart()
    await rig.until(A, lambda one: one.status.reason is Reason.ADMISSION_DENIED)
    api.delete(EVENTS, "z-earlier")
    await rig.env(A, A="1")
    await asyncio.sleep(0.5)
    assert (await rig.get(A)).status.reason is Reason.ADMISSION_DENIED
    api.unmade.clear()
    api.control("default", A)
    await rig.settled(A, Phase.RUNNING)


@pytest.mark.fault(32)
@pytest.mark.slow
async def test_warning_about_a_pod_is_not_reported_for_its_successor(rig: Rig, api: ScriptedApi) -> None:
    api.unmade.add(A)
    await rig.create(A)
    await until(lambda: A in api.objects.get(SETS, {}))
    api.put(EVENTS, event("e", api.objects[SETS][A], "StatefulSet", DENIED))
    await rig.until(A, lambda one: one.status.reason is Reason.ADMISSION_DENIED)
    api.unmade.clear()
    api.control("default", A)
    await rig.settled(A, Phase.RUNNING)
    reported = len(rig.history)
    api.delete(PODS, f"{A}-0")
    await rig.until(A, lambda one: one.status.phase is not Phase.RUNNING)
    api.control("default", A)
    await rig.settled(A, Phase.RUNNING)
    assert Phase.ERROR not in {one.status.phase for one in rig.history[reported:]}


@pytest.mark.find(13)
@pytest.mark.parametrize("times", TIMES)
@pytest.mark.slow
async def test_event_of_any_clock_is_reported_and_none_of_a_former_pod(rig: Rig, api: ScriptedApi, times: str) -> None:
    api.unmade.add(A)
    await rig.create(A)
    await until(lambda: A in api.objects.get(SETS, {}))
    found = api.objects[SETS][A]
    api.put(EVENTS, event("e", found, "StatefulSet", DENIED, times))
    await rig.until(A, lambda one: one.status.reason is Reason.ADMISSION_DENIED, within=5)
    api.unmade.clear()
    api.control("default", A)
    await rig.settled(A, Phase.RUNNING)
    # A former pod's event, while the pod goes and does not come back; then the same words again, of the new pod.
    api.unmade.add(A)
    reported = len(rig.history)
    api.delete(PODS, f"{A}-0")
    await rig.until(A, lambda one: one.status.phase is not Phase.RUNNING)
    await asyncio.sleep(0.3)
    assert Phase.ERROR not in {one.status.phase for one in rig.history[reported:]}
    api.put(EVENTS, event("e", found, "StatefulSet", DENIED, times) | {"count": 2})
    await rig.until(A, lambda one: one.status.reason is Reason.ADMISSION_DENIED, within=5)


@pytest.mark.find(13)
@pytest.mark.slow
async def test_event_from_before_a_stop_is_not_reported_after_the_start(rig: Rig, api: ScriptedApi) -> None:
    api.unmade.add(A)
    await rig.create(A)
    await until(lambda: A in api.objects.get(SETS, {}))
    api.put(EVENTS, event("e", api.objects[SETS][A], "StatefulSet", DENIED))
    await rig.until(A, lambda one: one.status.reason is Reason.ADMISSION_DENIED)
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    reported = len(rig.history)
    await rig.begin(A, Phase.RUNNING)
    await asyncio.sleep(0.5)
    assert Phase.ERROR not in {one.status.phase for one in rig.history[reported:]}
    api.unmade.clear()
    api.control("default", A)
    await rig.settled(A, Phase.RUNNING)


@pytest.mark.fault(32)
@pytest.mark.slow
async def test_warning_from_before_a_restart_is_reported_until_there_is_a_pod(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    await rig.stop()
    api.unmade.add(A)
    api.delete(PODS, f"{A}-0")
    api.put(EVENTS, event("e", api.objects[SETS][A], "StatefulSet", DENIED))
    await rig.start()
    await rig.until(A, lambda one: one.status.reason is Reason.ADMISSION_DENIED)
    reported = len(rig.history)
    for _ in range(3):
        rig.reconciler.wake(rig.key(A))
        await asyncio.sleep(0.2)
    assert len(rig.history) == reported
    api.unmade.clear()
    api.control("default", A)
    await rig.settled(A, Phase.RUNNING)


@pytest.mark.slow
async def test_pod_that_waits_for_its_volume_is_reported_once(rig: Rig, api: ScriptedApi) -> None:
    """Before there is a pod, while it has no condition yet, and when the scheduler has said so: it is the same."""
    api.unbound = True
    api.unmade.add(A)
    await rig.create(A)
    await rig.until(A, lambda one: one.status.reason is Reason.VOLUME_BINDING)
    (sets,) = api.objects[SETS].values()
    template = sets["spec"]["template"]
    bare = template["metadata"] | {"name": f"{A}-0"}
    api.put(PODS, {"metadata": bare, "spec": template["spec"], "status": {"phase": "Pending"}})
    await asyncio.sleep(0.2)
    api.unmade.clear()
    api.control("default", A)
    # Once for the sandbox, and once for the pod, which has its resources.
    await until(lambda: len(rig.history) >= 3)
    await asyncio.sleep(0.2)
    assert [one.status.reason for one in rig.history] == [Reason.ACCEPTED, *[Reason.VOLUME_BINDING] * 2]
    conditions = {one.type: (one.status, one.reason) for one in rig.history[-1].status.conditions}
    assert conditions[ConditionType.RESOURCES_APPLIED] == (True, Reason.READY)
    assert conditions[ConditionType.SCHEDULED] == (False, Reason.VOLUME_BINDING)
    api.unbound = False
    api.control("default", A)
    await rig.settled(A, Phase.RUNNING)


@pytest.mark.slow
async def test_a_claim_that_no_class_serves_is_volume_pending_in_the_clusters_words(rig: Rig, api: ScriptedApi) -> None:
    api.unbound = True
    await rig.create(A)
    await until(lambda: f"{A}-0" in api.objects.get(PODS, {}))
    words = "no persistent volumes available for this claim and no storage class is set"
    (claim,) = api.objects[CLAIMS].values()
    api.put(EVENTS, event("e", claim, "PersistentVolumeClaim", words))
    failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    assert (failed.status.reason, failed.status.message) == (Reason.VOLUME_PENDING, words)
    api.unbound = False
    api.control("default", A)
    await rig.settled(A, Phase.RUNNING)


@pytest.mark.fault(32)
@pytest.mark.fault(33)
@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        (403, 'pods "x" is forbidden: exceeded quota: q, requested: cpu=1', Reason.QUOTA_EXCEEDED),
        (
            403,
            'secrets "x" is forbidden: User "u" cannot patch resource "secrets" in API group ""',
            Reason.CLUSTER_FORBIDDEN,
        ),
        (403, 'x is forbidden: violates PodSecurity "restricted:latest"', Reason.ADMISSION_DENIED),
        (400, 'admission webhook "w" denied the request: no', Reason.ADMISSION_DENIED),
        (
            403,
            "unable to create new content in namespace x because it is being terminated",
            Reason.NAMESPACE_TERMINATING,
        ),
        (404, 'namespaces "x" not found', Reason.NAMESPACE_MISSING),
        (422, "StatefulSet.apps is invalid", Reason.ENGINE_REFUSED),
    ],
)
# How often it tries again is the subject.
@pytest.mark.parametrize("pace", [Pace()], ids=["production"])
@pytest.mark.slow
async def test_a_refusal_is_a_typed_reason_without_a_hot_loop_and_recovers(
    rig: Rig, api: ScriptedApi, code: int, message: str, reason: Reason
) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return status(code, message)

    api.lasting.append((lambda request: request.method == "PATCH", refuse))
    await rig.create(A)
    failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    assert failed.status.reason is reason
    assert failed.status.message == message
    await asyncio.sleep(1)
    assert len(writes(api)) <= 6
    api.lasting.clear()
    await rig.settled(A, Phase.RUNNING)


@pytest.mark.fault(33)
@pytest.mark.slow
async def test_missing_right_to_list_is_reported_for_waiting_sandboxes_and_recovers(rig: Rig, api: ScriptedApi) -> None:
    await rig.create("settled")
    before = await rig.settled("settled", Phase.RUNNING)
    message = 'pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace "default"'

    async def refuse(_: web.Request) -> web.StreamResponse:
        return status(403, message)

    api.lasting.append((lambda request: request.method == "GET" and request.path.endswith("/pods"), refuse))
    await rig.restart()
    await rig.create(A)
    failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    assert (failed.status.reason, failed.status.message) == (Reason.CLUSTER_FORBIDDEN, message)
    # Nothing is known against what had settled: it is served as it was, and as stale.
    assert await rig.get("settled") == before
    assert rig.stale
    generation = (await rig.begin("settled", Phase.STOPPED)).generation
    failed = await rig.until("settled", lambda one: one.status.phase is Phase.ERROR)
    assert (failed.status.reason, failed.generation) == (Reason.CLUSTER_FORBIDDEN, generation)
    api.lasting.clear()
    await rig.settled(A, Phase.RUNNING)
    await rig.settled("settled", Phase.STOPPED)
    rig.check_history()


@pytest.mark.fault(63)
@pytest.mark.find(11)
@pytest.mark.slow
async def test_output_of_another_container_is_reported_without_the_environment(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A, {"TOKEN": samples.CANARY, "DEBUG": "1"})
    await rig.settled(A, Phase.RUNNING)
    found = copy.deepcopy(api.objects[PODS][f"{A}-0"])
    ready = {"type": "Ready", "status": "False", "reason": "ContainersNotReady"}
    end = {"exitCode": 1, "reason": "Error", "message": f"refused {samples.CANARY}"}
    beside = {"name": "mesh", "ready": False, "restartCount": 1, "state": {"terminated": end}}
    found["status"]["conditions"] = [ready, *found["status"]["conditions"][1:]]
    found["status"]["containerStatuses"].append(beside)
    api.put(PODS, found)
    reported = (await rig.until(A, lambda one: one.status.reason is Reason.OTHER_CONTAINER)).status
    assert reported.message == "the container mesh: ended with exit code 1 (Error): refused [redacted]"
    assert reported.restart_count == 1
    assert all(samples.CANARY not in str(one.status) for one in rig.history)


@pytest.mark.fault(59)
@pytest.mark.find(7)
@pytest.mark.slow
async def test_secret_that_the_kubelet_misses_is_no_error_while_the_service_makes_it_again(
    rig: Rig, api: ScriptedApi
) -> None:
    await rig.create(A, {"COLOUR": "blue"})
    await rig.settled(A, Phase.RUNNING)
    begun = len(rig.history)
    secret = api.objects[SECRETS].pop(f"{A}-env-1")
    missing = {"reason": "CreateContainerConfigError", "message": f'secret "{A}-env-1" not found'}
    running = api.objects[PODS][f"{A}-0"]
    found = copy.deepcopy(running)
    found["status"]["conditions"][0] |= {"status": "False", "reason": "ContainersNotReady"}
    found["status"]["containerStatuses"][0] |= {"ready": False, "state": {"waiting": missing}}
    noticed = time.monotonic()
    api.put(PODS, found)
    reported = (await rig.until(A, lambda one: one.status.phase is not Phase.RUNNING)).status
    assert (reported.phase, reported.reason) == (Phase.STARTING, Reason.CONTAINER_CREATING)
    assert (reported.message, remedy.of(reported.reason)) == (missing["message"], remedy.Remedy.WAIT)
    await until(lambda: f"{A}-env-1" in api.objects[SECRETS])
    assert api.objects[SECRETS][f"{A}-env-1"]["data"] == secret["data"]
    # It is not written again before the kubelet can have looked again.
    written = api.calls.count(("PATCH", f"/{SECRETS}/{A}-env-1"))
    for _ in range(3):
        rig.reconciler.wake(rig.key(A))
        await asyncio.sleep(0.1)
    again = api.calls.count(("PATCH", f"/{SECRETS}/{A}-env-1")) - written
    assert again <= (time.monotonic() - noticed) / FAST.supply_every
    api.put(PODS, running)
    await rig.settled(A, Phase.RUNNING)
    assert all(one.status.phase is not Phase.ERROR for one in rig.history[begun:])


@pytest.mark.fault(62)
@pytest.mark.find(10)
@pytest.mark.slow
async def test_evictions_are_counted_however_fast_the_pod_is_replaced_and_survive_a_restart(
    rig: Rig, api: ScriptedApi
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    for count in range(1, 4):
        found = copy.deepcopy(api.objects[PODS][f"{A}-0"])
        found["status"] |= {"phase": "Failed", "reason": "Evicted", "message": "low on memory"}
        found["status"]["conditions"] = [{"type": "Ready", "status": "False", "reason": "PodFailed"}]
        api.put(PODS, found)
        api.delete(PODS, f"{A}-0")
        if count == 3:
            api.unmade.add(A)
        api.control("default", A)

        def counted(one: Sandbox, count: int = count) -> bool:
            last = one.status.last_disruption
            return last is not None and last.count == count

        await rig.until(A, counted)
        if count < 3:
            await rig.settled(A, Phase.RUNNING)
    failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    assert (failed.status.reason, failed.status.message) == (
        Reason.EVICTED,
        "Evicted: low on memory; the disk is kept; 3 times in a row",
    )
    await rig.restart()
    assert (await rig.get(A)).status == failed.status
    api.unmade.clear()
    api.control("default", A)
    back = await rig.settled(A, Phase.RUNNING)
    assert back.status.last_disruption == failed.status.last_disruption


def warning(name: str, pod: dict[str, Any], reason: str, message: str) -> dict[str, Any]:
    return event(name, pod, "Pod", message) | {"reason": reason, "type": "Warning"}


@pytest.mark.find(12)
@pytest.mark.slow
async def test_answer_to_a_probe_is_reported_without_the_environment(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A, {"TOKEN": samples.CANARY})
    await rig.settled(A, Phase.RUNNING)
    # From here on the pod is as the test says.
    api.unmade.add(A)
    found = copy.deepcopy(api.objects[PODS][f"{A}-0"])
    ready = {"type": "Ready", "status": "False", "reason": "ContainersNotReady"}
    found["status"]["conditions"] = [ready, *found["status"]["conditions"][1:]]
    found["status"]["containerStatuses"][0]["ready"] = False
    found = api.put(PODS, found)
    reported = await rig.until(A, lambda one: one.status.reason is Reason.NOT_READY)
    assert reported.status.message == "the container runs; it is not ready yet"
    words = "Readiness probe failed: HTTP probe failed with statuscode: 404"
    api.put(EVENTS, warning("probe", found, "Unhealthy", f"{words} {samples.CANARY}"))
    api.put(EVENTS, warning("dns", found, "MissingClusterDNS", "kubelet does not have ClusterDNS IP configured"))
    reported = await rig.until(A, lambda one: words in one.status.message)
    assert reported.status.message == f"the container runs; it is not ready yet: {words} [redacted]"
    count = len(rig.history)
    await asyncio.sleep(0.3)
    assert len(rig.history) == count
    # Another pod has another probe.
    api.delete(PODS, f"{A}-0")
    api.put(PODS, found | {"metadata": {**found["metadata"], "uid": "another"}})
    reported = await rig.until(A, lambda one: one.status.reason is Reason.NOT_READY and words not in one.status.message)
    assert samples.CANARY not in str(rig.history)


@pytest.mark.find(12)
@pytest.mark.slow
async def test_warning_that_stops_nothing_hides_no_cause(rig: Rig, api: ScriptedApi) -> None:
    api.unmade.add(A)
    await rig.create(A)
    await until(lambda: A in api.objects.get(SETS, {}))
    (sets,), (claim,) = api.objects[SETS].values(), api.objects[CLAIMS].values()
    api.put(CLAIMS, claim | {"status": {"phase": "Bound", "capacity": {"storage": "5Gi"}}})
    template = sets["spec"]["template"]
    meta = template["metadata"] | {"name": f"{A}-0"}
    told = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]}
    found = api.put(PODS, {"metadata": meta, "spec": template["spec"], "status": told})
    api.put(EVENTS, warning("dns", found, "MissingClusterDNS", "no ClusterDNS"))
    await rig.until(A, lambda one: one.status.message == "the container is being made")
    api.put(EVENTS, warning("mount", found, "FailedMount", "the device is busy"))
    await rig.until(A, lambda one: one.status.message == "the device is busy")
    api.put(EVENTS, warning("dns", found, "MissingClusterDNS", "no ClusterDNS, again"))
    await asyncio.sleep(0.3)
    assert (await rig.get(A)).status.message == "the device is busy"
