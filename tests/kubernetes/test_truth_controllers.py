"""A Stop and a Delete while the StatefulSet controller cannot work."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sandbox_server.domain.phase import Phase, Reason

from tests.kubernetes.ground import KubernetesGround
from tests.kubernetes.truth import APPS, A, Truth

WORDS = "waiting for the cluster's StatefulSet controller"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"


@pytest.fixture
async def denied(truth: Truth) -> AsyncIterator[Truth]:
    """A namespace in which a policy denies every ControllerRevision."""
    name = truth.ground.namespace
    where = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}
    operations = ["CREATE", "UPDATE"]
    what = {
        "apiGroups": ["apps"],
        "apiVersions": ["v1"],
        "operations": operations,
        "resources": ["controllerrevisions"],
    }
    rule = {"expression": "false", "message": "no revisions here"}
    policy = {"matchConstraints": {"resourceRules": [what]}, "validations": [rule]}
    binding = {"policyName": name, "validationActions": ["Deny"], "matchResources": where}
    policies, bindings = (f"{ADMISSION}/validatingadmissionpolic{one}" for one in ("ies", "ybindings"))
    await truth.request("POST", policies, {"metadata": {"name": name}, "spec": policy})
    await truth.request("POST", bindings, {"metadata": {"name": name}, "spec": binding})
    await asyncio.sleep(3)
    yield truth
    await truth.request("DELETE", f"{bindings}/{name}")
    await truth.request("DELETE", f"{policies}/{name}")


def left(ground: KubernetesGround) -> list[str]:
    kinds = (("pods", "api/v1"), ("persistentvolumeclaims", "api/v1"), ("statefulsets", APPS), ("services", "api/v1"))
    return [name for kind, group in kinds for name in ground.names(kind, group)]


@pytest.mark.fault(55)
@pytest.mark.find(3)
async def test_a_delete_ends_where_a_policy_denies_controller_revisions(denied: Truth) -> None:
    await denied.rig.create(A)
    await denied.rig.until(A, lambda one: one.applied_generation == 1)
    assert denied.ground.names("pods") == []
    await denied.rig.delete(A)
    await denied.rig.settled(A, Phase.TERMINATED)
    await asyncio.sleep(2)
    assert left(denied.ground) == []


@pytest.mark.fault(55)
@pytest.mark.find(3)
@pytest.mark.parametrize("desired", [Phase.STOPPED, Phase.TERMINATED])
async def test_a_stop_or_delete_says_that_the_controller_manager_is_down_and_ends_with_it(
    truth: Truth, desired: Phase
) -> None:
    await truth.running()
    truth.ground.cluster.pause("kube-controller-manager")
    try:
        await (truth.rig.begin(A, desired) if desired is Phase.STOPPED else truth.rig.delete(A))
        waits = await truth.rig.until(A, lambda one: WORDS in one.status.message)
        assert waits.status.reason is Reason.WORKLOAD_PENDING
        assert waits.status.phase is (Phase.STOPPING if desired is Phase.STOPPED else Phase.TERMINATING)
        await asyncio.sleep(8)
    finally:
        truth.ground.cluster.resume("kube-controller-manager")
    await truth.rig.settled(A, desired, 60)
    await asyncio.sleep(2)
    assert desired is Phase.STOPPED or left(truth.ground) == []
