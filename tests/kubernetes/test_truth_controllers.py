"""A Stop and a Delete while the StatefulSet controller cannot work."""

import asyncio
import contextlib
import time
import urllib.error
from collections.abc import AsyncIterator

import pytest
from sandbox_server.domain.phase import Phase, Reason

from tests.kubernetes.ground import KubernetesGround
from tests.kubernetes.truth import APPS, CLAIM, A, Truth
from tests.kubernetes.witness import Sight, deleted
from tests.support.rig import FAST
from tests.support.waiting import PATIENCE

WORDS = "waiting for the cluster's StatefulSet controller"
DENIED = "no revisions here"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
GUARD = FAST.controller_guard


@contextlib.asynccontextmanager
async def denied(truth: Truth) -> AsyncIterator[None]:
    """While this lasts a policy denies every ControllerRevision in the namespace."""
    name = truth.ground.namespace
    where = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}
    operations = ["CREATE", "UPDATE"]
    what = {
        "apiGroups": ["apps"],
        "apiVersions": ["v1"],
        "operations": operations,
        "resources": ["controllerrevisions"],
    }
    rule = {"expression": "false", "message": DENIED}
    policy = {"matchConstraints": {"resourceRules": [what]}, "validations": [rule]}
    binding = {"policyName": name, "validationActions": ["Deny"], "matchResources": where}
    policies, bindings = (f"{ADMISSION}/validatingadmissionpolic{one}" for one in ("ies", "ybindings"))
    await truth.request("POST", policies, {"metadata": {"name": name}, "spec": policy})
    await truth.request("POST", bindings, {"metadata": {"name": name}, "spec": binding})
    async with asyncio.timeout(60 * PATIENCE):
        # The controller that checks a policy writes its status, with which the API server reads all of them anew. None is in
        # force for that moment.
        while not (await truth.request("GET", f"{policies}/{name}")).get("status", {}).get("observedGeneration"):
            await asyncio.sleep(0.2)
        in_force = 0
        while in_force < 10:
            in_force = 0 if await allowed(truth) else in_force + 1
            await asyncio.sleep(0.2)
    try:
        yield
    finally:
        await truth.request("DELETE", f"{bindings}/{name}")
        await truth.request("DELETE", f"{policies}/{name}")


async def allowed(truth: Truth) -> bool:
    """Whether the API server would take a ControllerRevision: a policy is in force a moment after it is written."""
    path = truth.ground.path("controllerrevisions", group=APPS)
    revision = {"metadata": {"name": "trial"}, "revision": 1, "data": {}}
    try:
        await truth.request("POST", f"{path}?dryRun=All", revision)
    except urllib.error.HTTPError as error:
        return DENIED not in error.read().decode()
    return True


@contextlib.asynccontextmanager
async def created_and_denied(truth: Truth, acted: bool) -> AsyncIterator[None]:
    """Creates the sandbox and denies ControllerRevisions: after the controller has made a pod if `acted`, else before."""
    if acted:
        await truth.running()
    async with denied(truth):
        if not acted:
            await truth.rig.create(A)
            await truth.rig.until(A, lambda one: one.applied_generation == 1)
            assert truth.ground.names("pods") == []
        yield


def idle(sight: Sight) -> bool:
    return bool(sight.value["spec"]["replicas"] == 0)


def left(ground: KubernetesGround) -> list[str]:
    kinds = (("pods", "api/v1"), ("persistentvolumeclaims", "api/v1"), ("statefulsets", APPS), ("services", "api/v1"))
    return [name for kind, group in kinds for name in ground.names(kind, group)]


@pytest.mark.fault(55)
@pytest.mark.find(3)
@pytest.mark.parametrize("acted", [False, True], ids=["never acted", "acted before"])
async def test_stop_ends_where_a_policy_denies_controller_revisions(truth: Truth, acted: bool) -> None:
    async with created_and_denied(truth, acted):
        disk = (await truth.request("GET", truth.ground.path("persistentvolumeclaims", CLAIM)))["metadata"]["uid"]
        since = time.monotonic()
        await truth.rig.begin(A, Phase.STOPPED)
        due = await truth.shown("statefulsets", idle, since) + GUARD
        cause = f"ControllerRevisions denied, {'a pod' if acted else 'no pod'} there, Stop"
        if acted:
            # Without a pod there may be nothing left to wait for when the workload is removed.
            await truth.told(cause, Phase.STOPPING, Reason.WORKLOAD_PENDING, WORDS, "", due, since)
        gone = await truth.shown("statefulsets", deleted, since)
        back = await truth.shown("statefulsets", lambda sight: sight.type == "ADDED", gone)
        await truth.told(f"{cause}: ends", Phase.STOPPED, Reason.POD_GONE, "", "", back, since)
        await asyncio.sleep(2)
        assert truth.ground.names("pods") == []
    await asyncio.sleep(2)
    assert truth.ground.names("pods") == []
    await truth.rig.begin(A, Phase.RUNNING)
    assert (await truth.rig.settled(A, Phase.RUNNING, 60)).volume_uid == disk


@pytest.mark.fault(55)
@pytest.mark.find(3)
@pytest.mark.parametrize("acted", [False, True], ids=["never acted", "acted before"])
async def test_delete_ends_where_a_policy_denies_controller_revisions(truth: Truth, acted: bool) -> None:
    async with created_and_denied(truth, acted):
        since = time.monotonic()
        await truth.rig.delete(A)
        due = await truth.shown("statefulsets", idle, since) + GUARD
        cause = f"ControllerRevisions denied, {'a pod' if acted else 'no pod'} there, Delete"
        if acted:
            # Without a pod there may be nothing left to wait for when the workload is removed.
            await truth.told(cause, Phase.TERMINATING, Reason.WORKLOAD_PENDING, WORDS, "", due, since)
        gone = await truth.shown("persistentvolumeclaims", deleted, since)
        await truth.told(f"{cause}: ends", Phase.TERMINATED, Reason.DELETED, "", "", gone, since)
        await asyncio.sleep(2)
        assert left(truth.ground) == []


@pytest.mark.fault(55)
@pytest.mark.find(3)
@pytest.mark.parametrize("desired", [Phase.STOPPED, Phase.TERMINATED])
async def test_stop_or_delete_says_that_the_controller_manager_is_down_and_ends_with_it(
    truth: Truth, desired: Phase
) -> None:
    await truth.running()
    truth.ground.cluster.pause("kube-controller-manager")
    since = time.monotonic()
    stops = desired is Phase.STOPPED
    try:
        await (truth.rig.begin(A, desired) if stops else truth.rig.delete(A))
        due = await truth.shown("statefulsets", idle, since) + GUARD
        cause = f"controller manager down, {'Stop' if stops else 'Delete'}: waits for it"
        phase = Phase.STOPPING if stops else Phase.TERMINATING
        await truth.told(cause, phase, Reason.WORKLOAD_PENDING, WORDS, "", due, since)
        await asyncio.sleep(8)
        last = (await truth.rig.get(A)).status
        assert (last.phase, WORDS in last.message) == (phase, True)
    finally:
        truth.ground.cluster.resume("kube-controller-manager")
    await truth.rig.settled(A, desired, 60)
    if stops:
        back = await truth.shown("statefulsets", lambda sight: sight.type == "ADDED", since)
        await truth.told("... up again, Stop", desired, Reason.POD_GONE, "", "", back, since)
    else:
        gone = await truth.shown("persistentvolumeclaims", deleted, since)
        await truth.told("... up again, Delete", desired, Reason.DELETED, "", "", gone, since)
    await asyncio.sleep(2)
    assert stops or left(truth.ground) == []
