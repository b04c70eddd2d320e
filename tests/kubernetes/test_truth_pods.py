"""What becomes of a pod: phase, reason, words, all conditions, and how soon they are told."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from sandbox_server.domain.phase import Phase, Reason

from tests.kubernetes import kubelet
from tests.kubernetes.ground import KubernetesGround, started
from tests.kubernetes.kubelet import VARIABLE
from tests.kubernetes.node import MERGE, NAME, STRATEGIC, UNHEALTHY, UNMOUNTED
from tests.kubernetes.truth import ALL_WELL, POD, SOON, A, Truth, no_pod
from tests.kubernetes.witness import Sight, Witness, condition, event, going, waiting
from tests.support.rig import Rig


@pytest.mark.fault(27)
@pytest.mark.fault(29)
@pytest.mark.fault(30)
@pytest.mark.parametrize(
    ("cause", "behaviour", "word", "reason", "message", "image"),
    [
        ("image cannot be pulled", "image-pull", "ImagePullBackOff", Reason.IMAGE_PULL, "Back-off pulling image", "-IMAGE_PULL"),
        ("image name not valid", "image-invalid", "InvalidImageName", Reason.IMAGE_INVALID, "couldn't parse", "-IMAGE_INVALID"),
        ("crash loop, with its exit code", "crash-loop", "CrashLoopBackOff", Reason.CRASH_LOOP, "exit code 3", "+"),
        ("killed for memory", "out-of-memory", "CrashLoopBackOff", Reason.OUT_OF_MEMORY, "exit code 137 (OOMKilled)", "+"),
    ],
)  # fmt: skip
async def test_27_29_30_what_the_kubelet_says(
    truth: Truth, cause: str, behaviour: str, word: str, reason: Reason, message: str, image: str
) -> None:
    truth.ground.node.behave(truth.ground.namespace, POD, behaviour)
    await truth.rig.create(A)
    shown = await truth.shown("pods", waiting(word))
    seen = f"+ + {image} -{reason.name} -{reason.name}"
    failed = await truth.told(cause, Phase.ERROR, reason, message, seen, shown)
    if image == "+":
        assert failed.status.restart_count == 4
        assert failed.status.last_exit is not None
        assert f"exit code {failed.status.last_exit.code} " in failed.status.message
    truth.ground.node.behave(truth.ground.namespace, POD, "run")
    await truth.rig.settled(A, Phase.RUNNING)


@pytest.mark.fault(59)
@pytest.mark.find(7)
@pytest.mark.parametrize(
    ("cause", "behaviour", "word", "message", "seen"),
    [
        ("image not pulled at the first try", "pull-fails-once", "ErrImagePull", "not found", "+ + -IMAGE_PULL -IMAGE_PULL -IMAGE_PULL"),
        ("the kubelet's cache is late", "no-cache", "CreateContainerConfigError", "failed to sync secret cache", "+ + ?CONTAINER_CREATING -CONTAINER_CREATING -CONTAINER_CREATING"),
    ],
)  # fmt: skip
async def test_what_the_kubelet_gets_over_by_itself_is_reported_without_an_error(
    truth: Truth, cause: str, behaviour: str, word: str, message: str, seen: str
) -> None:
    truth.ground.node.behave(truth.ground.namespace, POD, behaviour)
    await truth.rig.create(A)
    shown = await truth.bound(await truth.shown("pods", waiting(word)))
    await truth.told(cause, Phase.STARTING, Reason.CONTAINER_CREATING, message, seen, shown)
    truth.ground.node.behave(truth.ground.namespace, POD, "run")
    await truth.rig.settled(A, Phase.RUNNING)
    assert [one.status for one in truth.rig.history if one.status.phase is Phase.ERROR] == []


async def test_a_volume_that_cannot_be_mounted_is_said_in_the_kubelets_words(truth: Truth) -> None:
    truth.ground.node.behave(truth.ground.namespace, POD, "no-mount")
    await truth.rig.create(A)
    shown = await truth.bound(await truth.shown("events", event("FailedMount", UNMOUNTED)))
    reason = Reason.CONTAINER_CREATING
    seen = f"+ + ?{reason.name} -{reason.name} -{reason.name}"
    await truth.told("volume cannot be mounted", Phase.STARTING, reason, UNMOUNTED, seen, shown)
    truth.ground.node.behave(truth.ground.namespace, POD, "run")
    await truth.rig.settled(A, Phase.RUNNING)


@pytest.mark.fault(29)
@pytest.mark.fault(66)
async def test_29_a_bad_env_update_is_said_and_a_good_one_recovers_without_help(truth: Truth) -> None:
    await truth.running()
    await truth.rig.env(A, BEHAVIOUR="crash-loop")
    shown = await truth.shown("pods", waiting("CrashLoopBackOff"))
    seen = "+ + + -CRASH_LOOP -CRASH_LOOP"
    await truth.told("bad env update", Phase.ERROR, Reason.CRASH_LOOP, "exit code 3", seen, shown)
    await truth.rig.env(A, BEHAVIOUR="run")
    shown = await truth.shown("pods", condition("Ready", "True"), since := time.monotonic())
    after = await truth.told(
        "a good one after it", Phase.RUNNING, Reason.READY, "the pod is ready", ALL_WELL, shown, since
    )
    assert (after.status.observed_generation, after.status.restart_count) == (3, 0)


@pytest.mark.fault(53)
@pytest.mark.find(1)
async def test_a_fall_long_after_the_start_is_said_with_its_cause(ground: KubernetesGround, tmp_path: Path) -> None:
    deadline = 1.5
    async with Witness(ground.cluster, ground.namespace) as witness, started(Rig(ground, tmp_path, deadline)) as rig:
        truth = Truth(rig, ground, witness)
        await truth.running()
        await asyncio.sleep(deadline + 1)
        since = time.monotonic()
        ground.node.behave(ground.namespace, POD, "never-ready")
        shown = await truth.shown("pods", condition("Ready", "False"), since)
        reason = Reason.NOT_READY
        await truth.told(
            "readiness lost long after the start",
            Phase.STARTING,
            reason,
            "",
            f"+ + + -{reason.name} -{reason.name}",
            shown,
            since,
        )
        ground.node.behave(ground.namespace, POD, "run")
        await rig.settled(A, Phase.RUNNING)
        fallen = [one.status.reason for at, one in truth.announced if at >= since]
        assert Reason.START_DEADLINE not in fallen


SETS = "apis/apps/v1"
SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
SIDECAR = {"name": "injected", "image": "registry.example/injected:1", "securityContext": SECURITY}
GATE = "load-balancer.example/registered"


def beside(behaviour: str, **more: Any) -> dict[str, Any]:
    return SIDECAR | {"env": [{"name": VARIABLE, "value": behaviour}]} | more


async def inject(truth: Truth, **spec: Any) -> float:
    """Adds to the pod's template what others inject into pods; when it did."""
    since = time.monotonic()
    path = truth.ground.path("statefulsets", A, SETS)
    await truth.request("PATCH", path, {"spec": {"template": {"spec": spec}}}, STRATEGIC)
    return since


@pytest.mark.fault(63)
@pytest.mark.find(11)
@pytest.mark.parametrize(
    ("cause", "where", "container", "words", "image"),
    [
        ("init container fails", "initContainers", beside("crash-loop"), "the init container injected: CrashLoop", "?"),
        ("init container's image", "initContainers", beside("image-pull"), "the init container injected: Image", "?"),
        ("sidecar crashes", "containers", beside("crash-loop"), "exit code 1 (Error): back-off 10s", "+"),
        (
            "native sidecar crashes",
            "initContainers",
            beside("crash-loop", restartPolicy="Always"),
            "exit code 1 (Error): back-off 10s",
            "?",
        ),
    ],
)
async def test_failing_container_beside_the_sandboxs_is_said(
    truth: Truth, cause: str, where: str, container: dict[str, Any], words: str, image: str
) -> None:
    await truth.running()
    since = await inject(truth, **{where: [container]})
    shown = await truth.shown("pods", condition("Ready", "False", "unready status"), since)
    reason = Reason.OTHER_CONTAINER
    seen = f"+ + {image if image == '+' else f'?{reason.name}'} -{reason.name} -{reason.name}"
    failed = await truth.told(cause, Phase.ERROR, reason, words, seen, shown, since)
    assert failed.status.restart_count in (0, 4)
    await inject(truth, **{where: [container | {"env": [{"name": VARIABLE, "value": "run"}]}]})
    await truth.rig.settled(A, Phase.RUNNING)


@pytest.mark.fault(63)
@pytest.mark.find(11)
async def test_closed_readiness_gate_is_said_until_it_is_passed(truth: Truth) -> None:
    await truth.running()
    since = await inject(truth, readinessGates=[{"conditionType": GATE}])
    shown = await truth.shown("pods", condition("Ready", "False", GATE), since)
    reason = Reason.NOT_READY
    seen = f"+ + + -{reason.name} -{reason.name}"
    await truth.told("readiness gate closed", Phase.STARTING, reason, GATE, seen, shown, since)
    since = time.monotonic()
    passed = {"status": {"conditions": [{"type": GATE, "status": "True"}]}}
    await truth.request("PATCH", truth.ground.path("pods", POD) + "/status", passed, STRATEGIC)
    shown = await truth.shown("pods", condition("Ready", "True"), since)
    await truth.told("readiness gate passed", Phase.RUNNING, Reason.READY, "the pod is ready", ALL_WELL, shown, since)


@pytest.mark.fault(60)
@pytest.mark.find(8)
@pytest.mark.parametrize("behaviour", ["no-command", "cannot-run"])
async def test_command_that_is_not_there_is_one_cause_throughout(truth: Truth, behaviour: str) -> None:
    truth.ground.node.behave(truth.ground.namespace, POD, behaviour)
    await truth.rig.create(A)
    shown = await truth.bound(await truth.shown("pods", waiting("RunContainerError")))
    reason = Reason.CONTAINER_CONFIG
    first = await truth.told("command not there", Phase.ERROR, reason, kubelet.NO_COMMAND, "", shown)
    await truth.rig.until(A, lambda one: one.status.restart_count >= 2)
    announced = [one for _, one in truth.announced]
    since = [one.status for one in announced[announced.index(first) :]]
    assert {(one.phase, one.reason, one.message) for one in since} == {(Phase.ERROR, reason, kubelet.NO_COMMAND)}
    truth.ground.node.behave(truth.ground.namespace, POD, "run")
    await truth.rig.settled(A, Phase.RUNNING)


@pytest.mark.fault(61)
@pytest.mark.find(9)
async def test_process_that_ends_at_once_is_never_running(ground: KubernetesGround, tmp_path: Path) -> None:
    ready_for = 1.0
    async with (
        Witness(ground.cluster, ground.namespace) as witness,
        started(Rig(ground, tmp_path, ready_for=ready_for)) as rig,
    ):
        truth = Truth(rig, ground, witness)
        await truth.running()
        await rig.env(A, BEHAVIOUR="exits")
        begun = len(truth.announced)
        shown = await truth.shown("pods", waiting("CrashLoopBackOff"))
        reason = Reason.CRASH_LOOP
        seen = f"+ + + -{reason.name} -{reason.name}"
        await truth.told("process ends at once", Phase.ERROR, reason, "exit code 7", seen, shown)
        looping = await rig.until(A, lambda one: one.status.restart_count >= 3)
        phases = [one.status.phase for _, one in truth.announced[begun:]]
        assert Phase.RUNNING not in phases
        assert set(phases[phases.index(Phase.ERROR) :]) == {Phase.ERROR}
        assert looping.status.observed_generation == 1
        since = time.monotonic()
        ground.node.behave(ground.namespace, POD, "run")
        shown = await truth.shown("pods", condition("Ready", "True"), since) + ready_for
        await rig.settled(A, Phase.RUNNING)
        assert time.monotonic() < shown + SOON


@pytest.mark.find(12)
async def test_what_the_probe_was_answered_is_said(truth: Truth) -> None:
    truth.ground.node.behave(truth.ground.namespace, POD, "never-ready")
    await truth.rig.create(A)
    shown = await truth.bound(await truth.shown("events", event("Unhealthy", UNHEALTHY)))
    seen = "+ + + -NOT_READY -NOT_READY"
    await truth.told("probe answered with an error", Phase.STARTING, Reason.NOT_READY, UNHEALTHY, seen, shown)
    truth.ground.node.behave(truth.ground.namespace, POD, "run")
    await truth.rig.settled(A, Phase.RUNNING)


def failed(sight: Sight) -> bool:
    return bool(sight.value["status"].get("phase") == "Failed")


@pytest.mark.fault(62)
@pytest.mark.find(10)
@pytest.mark.parametrize(
    ("cause", "behaviour", "reason"),
    [
        ("pod evicted by its kubelet", "evicted", Reason.EVICTED),
        ("pod preempted by its kubelet", "preempted", Reason.PREEMPTED),
        ("node shut down", "node-shutdown", Reason.NODE_SHUTDOWN),
        ("pod refused by its kubelet", "rejected", Reason.NODE_REJECTED),
    ],
)
async def test_pod_that_its_kubelet_ends_is_said_and_counted_until_it_is_an_error(
    truth: Truth, cause: str, behaviour: str, reason: Reason
) -> None:
    await truth.running()
    since, words = time.monotonic(), kubelet.ENDS[behaviour].message.strip()
    truth.ground.node.behave(truth.ground.namespace, POD, behaviour)
    shown = await truth.shown("pods", failed, since)
    told = await truth.told(cause, Phase.STARTING, reason, words, "", shown, since)
    assert told.status.last_disruption is not None
    assert (told.status.last_disruption.reason, told.status.last_disruption.count) == (reason, 1)
    assert "the disk is kept" in told.status.message
    often = await truth.rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    assert often.status.reason is reason
    assert "times in a row" in often.status.message
    since = time.monotonic()
    truth.ground.node.behave(truth.ground.namespace, POD, "run")
    back = await truth.rig.settled(A, Phase.RUNNING)
    assert back.status.last_disruption is not None
    assert back.status.last_disruption.count >= 3
    phases = {one.status.phase for at, one in truth.announced if at > since}
    assert phases <= {Phase.ERROR, Phase.RUNNING}


@pytest.mark.fault(62)
@pytest.mark.find(10)
async def test_drain_of_a_node_is_said(truth: Truth) -> None:
    await truth.running()
    since = time.monotonic()
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": POD}}
    await truth.request("POST", truth.ground.path("pods", f"{POD}/eviction"), eviction)
    shown = await truth.shown("pods", going, since)
    reason = Reason.DRAINED
    told = await truth.told("pod drained", Phase.STARTING, reason, "Eviction API: evicting", "", shown, since)
    assert told.status.last_disruption is not None
    assert told.status.last_disruption.count == 1
    assert (await truth.rig.settled(A, Phase.RUNNING)).status.last_disruption == told.status.last_disruption


@pytest.mark.fault(28)
async def test_28_unschedulable_with_the_schedulers_words(truth: Truth) -> None:
    node = f"/api/v1/nodes/{NAME}"
    await truth.request("PATCH", node, {"spec": {"unschedulable": True}}, MERGE)
    try:
        await truth.rig.create(A)
        words = "0/1 nodes are available: 1 node(s) were unschedulable"
        shown = await truth.shown("pods", condition("PodScheduled", "False", words))
        seen = no_pod(Reason.UNSCHEDULABLE, "+")
        await truth.told("no node fits", Phase.ERROR, Reason.UNSCHEDULABLE, words, seen, shown)
    finally:
        await truth.request("PATCH", node, {"spec": {"unschedulable": None}}, MERGE)
    await truth.rig.settled(A, Phase.RUNNING)


@pytest.mark.fault(31)
async def test_31_a_lost_node_is_said_and_recovered_from_without_force(truth: Truth) -> None:
    await truth.running()
    uid = (await truth.request("GET", truth.ground.path("pods", POD)))["metadata"]["uid"]
    truth.ground.node.alive = False
    try:
        shown = await truth.shown("pods", condition("Ready", "False"), time.monotonic())
        seen = "+ + + -NODE_LOST -NODE_LOST"
        await truth.told("node lost", Phase.ERROR, Reason.NODE_LOST, "node does not answer", seen, shown)
    finally:
        truth.ground.node.alive = True
    since = time.monotonic()
    shown = await truth.shown("pods", condition("Ready", "True"), since)
    await truth.told("node back", Phase.RUNNING, Reason.READY, "the pod is ready", ALL_WELL, shown, since)
    assert (await truth.request("GET", truth.ground.path("pods", POD)))["metadata"]["uid"] == uid


async def test_the_start_deadline_is_said(ground: KubernetesGround, tmp_path: Path) -> None:
    deadline = 1.5
    ground.node.behave(ground.namespace, POD, "never-ready")
    async with Witness(ground.cluster, ground.namespace) as witness, started(Rig(ground, tmp_path, deadline)) as rig:
        truth = Truth(rig, ground, witness)
        await rig.create(A)
        shown = truth.announced[0][0] + deadline
        words = "not ready within 1 s; last seen: NOT_READY the container runs"
        await truth.told(
            "start deadline passed", Phase.ERROR, Reason.START_DEADLINE, words, "+ + + -NOT_READY -NOT_READY", shown
        )
        ground.node.behave(ground.namespace, POD, "run")
        await rig.settled(A, Phase.RUNNING)
