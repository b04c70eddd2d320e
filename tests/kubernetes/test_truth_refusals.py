"""What the cluster refuses: the word for it, the cluster's own words, all conditions, and how soon they are told."""

import asyncio
import time
import urllib.error
from typing import Any

import pytest
from sandbox_server.domain.phase import Phase, Reason

from tests.kubernetes.ground import RBAC, KubernetesGround, may
from tests.kubernetes.node import MERGE
from tests.kubernetes.truth import APPS, CLAIM, A, Truth, no_pod
from tests.kubernetes.witness import event
from tests.support.waiting import eventually


async def quota(truth: Truth, **hard: str) -> str:
    """A quota in force; its path."""
    path = truth.ground.path("resourcequotas")
    await truth.request("POST", path, {"metadata": {"name": "none"}, "spec": {"hard": hard}})
    await asyncio.to_thread(
        eventually, lambda: "hard" in truth.ground.cluster.request("GET", f"{path}/none").get("status", {})
    )
    return f"{path}/none"


@pytest.mark.fault(32)
async def test_32_a_quota_on_pods_is_said_and_recovered_from(truth: Truth) -> None:
    path = await quota(truth, pods="0")
    await truth.rig.create(A)
    shown = await truth.shown("events", event("FailedCreate", "exceeded quota"))
    shown, seen = await truth.bound(shown), no_pod(Reason.QUOTA_EXCEEDED, "+")
    await truth.told(
        "quota exceeded by the pod", Phase.ERROR, Reason.QUOTA_EXCEEDED, "exceeded quota: none", seen, shown
    )
    await truth.request("DELETE", path)
    await truth.rig.settled(A, Phase.RUNNING)


@pytest.mark.fault(64)
@pytest.mark.find(14)
async def test_pod_is_made_within_half_a_minute_after_the_quota_is_lifted(truth: Truth) -> None:
    """By then the StatefulSet controller would wait for 41 s, having failed 14 times; each time it waits twice as long."""
    path = await quota(truth, pods="0")
    await truth.rig.create(A)
    await truth.shown("events", event("FailedCreate", "exceeded quota"))
    failed = await truth.rig.until(A, lambda one: one.status.reason is Reason.QUOTA_EXCEEDED)
    await asyncio.sleep(50)
    assert (await truth.rig.get(A)).status == failed.status
    await truth.request("DELETE", path)
    await truth.rig.settled(A, Phase.RUNNING, within=30)


@pytest.mark.fault(32)
async def test_32_a_quota_on_what_the_service_writes_is_said_and_recovered_from(truth: Truth) -> None:
    path = await quota(truth, **{"count/statefulsets.apps": "0"})
    shown = time.monotonic()
    await truth.rig.create(A)
    shown, seen = await truth.bound(shown), no_pod(Reason.QUOTA_EXCEEDED, "+")
    await truth.told(
        "quota exceeded by the StatefulSet", Phase.ERROR, Reason.QUOTA_EXCEEDED, "exceeded quota: none", seen, shown
    )
    await truth.request("DELETE", path)
    await truth.rig.settled(A, Phase.RUNNING)


@pytest.mark.fault(32)
async def test_32_what_admission_denies_the_pod_is_said_and_recovered_from(truth: Truth) -> None:
    path = truth.ground.path("limitranges")
    limits = {"limits": [{"type": "Container", "max": {"cpu": "50m"}}]}
    await truth.request("POST", path, {"metadata": {"name": "low"}, "spec": limits})
    await asyncio.sleep(1)
    await truth.rig.create(A)
    words = "maximum cpu usage per Container is 50m"
    shown = await truth.shown("events", event("FailedCreate", words))
    shown, seen = await truth.bound(shown), no_pod(Reason.ADMISSION_DENIED, "+")
    await truth.told("admission denied to the pod", Phase.ERROR, Reason.ADMISSION_DENIED, words, seen, shown)
    await truth.request("DELETE", f"{path}/low")
    await truth.rig.settled(A, Phase.RUNNING)


@pytest.mark.fault(32)
async def test_32_what_a_policy_denies_the_service_is_said_and_recovered_from(truth: Truth) -> None:
    words = "images come from allowed.example"
    name = truth.ground.namespace
    admission = "/apis/admissionregistration.k8s.io/v1"
    where = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}
    what = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["statefulsets"]}
    rule = {
        "expression": "object.spec.template.spec.containers.all(c, c.image.startsWith('allowed.example/'))",
        "message": words,
    }
    policy = {"matchConstraints": {"resourceRules": [what]}, "validations": [rule]}
    binding = {"policyName": name, "validationActions": ["Deny"], "matchResources": where}
    policies, bindings = (f"{admission}/validatingadmissionpolic{one}" for one in ("ies", "ybindings"))
    await truth.request("POST", policies, {"metadata": {"name": name}, "spec": policy})
    await truth.request("POST", bindings, {"metadata": {"name": name}, "spec": binding})
    await asyncio.to_thread(eventually, lambda: denied(truth.ground), 30)
    try:
        shown = time.monotonic()
        await truth.rig.create(A)
        shown, seen = await truth.bound(shown), no_pod(Reason.ADMISSION_DENIED, "+")
        await truth.told("admission denied to the service", Phase.ERROR, Reason.ADMISSION_DENIED, words, seen, shown)
    finally:
        await truth.request("DELETE", f"{bindings}/{name}")
        await truth.request("DELETE", f"{policies}/{name}")
    await truth.rig.settled(A, Phase.RUNNING)


def denied(ground: KubernetesGround) -> bool:
    """Whether the policy is in force."""
    pod = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "denied.example/a"}]}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "serviceName": "a", "template": pod}
    try:
        path = ground.path("statefulsets", group=APPS)
        ground.cluster.request("POST", f"{path}?dryRun=All", {"metadata": {"name": "trial"}, "spec": spec})
    except urllib.error.HTTPError as error:
        return error.code == 422
    return False


STRANGERS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("secrets", "api/v1", f"{A}-env-1", {"stringData": {"theirs": "1"}}),
    ("services", "api/v1", f"{A}-service", {"spec": {"ports": [{"port": 80}]}}),
    ("ingresses", "apis/networking.k8s.io/v1", f"{A}-app-ingress", {"spec": {"rules": [{"host": "theirs.example"}]}}),
    ("ingresses", "apis/networking.k8s.io/v1", f"{A}-ttyd-ingress", {"spec": {"rules": [{"host": "theirs.example"}]}}),
    ("statefulsets", APPS, A, {"spec": {"replicas": 0, "serviceName": "a", "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}}}}),
    ("persistentvolumeclaims", "api/v1", CLAIM, {"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}}}}),
]  # fmt: skip


@pytest.mark.fault(24)
@pytest.mark.parametrize(("resource", "group", "name", "body"), STRANGERS, ids=[one[2] for one in STRANGERS])
async def test_24_an_object_of_our_name_that_is_not_ours_is_left_alone(
    truth: Truth, resource: str, group: str, name: str, body: dict[str, Any]
) -> None:
    await truth.request("POST", truth.ground.path(resource, group=group), {"metadata": {"name": name}} | body)
    path = truth.ground.path(resource, name, group)
    await asyncio.sleep(0.5)
    made = await truth.request("GET", path)
    shown = time.monotonic()
    await truth.rig.create(A)
    seen = no_pod(Reason.NAME_CONFLICT)
    if name not in (f"{A}-service", CLAIM):
        # The Service and then the disk are made before all others.
        shown, seen = await truth.bound(shown), no_pod(Reason.NAME_CONFLICT, "+")
    words = f"{name} belongs to somebody else; it is left alone"
    cause = f"{made['kind']} of our name that is not ours"
    await truth.told(cause, Phase.ERROR, Reason.NAME_CONFLICT, words, seen, shown)
    await asyncio.sleep(1)
    assert await truth.request("GET", path) == made
    ours = {"statefulsets": APPS, "pods": "api/v1"}
    assert [one for kind, of in ours.items() for one in truth.ground.names(kind, of) if one != name] == []
    await truth.request("DELETE", path)
    await truth.rig.settled(A, Phase.RUNNING)


@pytest.mark.fault(33)
async def test_33_a_missing_right_is_said_and_recovered_from(truth: Truth) -> None:
    path = truth.ground.path("roles", "sandbox-service", RBAC.strip("/"))
    role = await truth.request("GET", path)
    less = [one | {"resources": [what for what in one["resources"] if what != "secrets"]} for one in role["rules"]]
    await truth.request("PATCH", path, {"rules": [one for one in less if one["resources"]]}, MERGE)
    where = truth.ground.cluster, truth.ground.namespace
    await asyncio.to_thread(eventually, lambda: not may(*where, "patch", "secrets"))
    shown = time.monotonic()
    await truth.rig.create(A)
    shown, seen = await truth.bound(shown), no_pod(Reason.CLUSTER_FORBIDDEN, "+")
    words = 'cannot patch resource "secrets"'
    await truth.told("the service lacks a right", Phase.ERROR, Reason.CLUSTER_FORBIDDEN, words, seen, shown)
    await truth.request("PATCH", path, {"rules": role["rules"]}, MERGE)
    await truth.rig.settled(A, Phase.RUNNING)
