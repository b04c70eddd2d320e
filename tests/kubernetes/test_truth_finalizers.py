"""Objects that hang on a finalizer: the status names the object and the finalizer."""

import time

import pytest
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.engines.kubernetes import manifests

from tests.kubernetes.node import MERGE
from tests.kubernetes.truth import APPS, CLAIM, A, Truth
from tests.kubernetes.witness import deleted, going
from tests.support.rig import FAST

HOLD = "example.com/hold"
INGRESS = f"{A}-app-ingress"


async def hold(truth: Truth, path: str) -> None:
    await truth.request("PATCH", path, {"metadata": {"finalizers": [HOLD]}}, MERGE)


async def release(truth: Truth, path: str) -> None:
    await truth.request("PATCH", path, {"metadata": {"finalizers": None}}, MERGE)


@pytest.mark.find(2)
async def test_former_owners_ingress_that_hangs_is_named(truth: Truth) -> None:
    await truth.running()
    path = truth.ground.path("ingresses", INGRESS, "apis/networking.k8s.io/v1")
    await hold(truth, path)
    await truth.rig.delete(A)
    await truth.rig.settled(A, Phase.TERMINATED)
    since = time.monotonic()
    await truth.rig.create(A)
    due = await truth.shown("persistentvolumeclaims", lambda one: one.type == "ADDED", since) + FAST.busy_after
    said = f"the Ingress {INGRESS} of a former owner is being removed and has to go first; its finalizers: {HOLD}"
    await truth.told("Ingress of a former owner hangs", Phase.ERROR, Reason.CLUSTER_BUSY, said, "", due, since)
    await release(truth, path)
    await truth.rig.settled(A, Phase.RUNNING, 60)


@pytest.mark.find(2)
async def test_former_owners_claim_that_hangs_is_named(truth: Truth) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    metadata = {"name": CLAIM, "annotations": {manifests.UID: "former"}, "finalizers": [HOLD]}
    claims = truth.ground.path("persistentvolumeclaims")
    await truth.request("POST", claims, {"metadata": metadata, "spec": spec})
    await truth.request("DELETE", f"{claims}/{CLAIM}")
    await truth.shown("persistentvolumeclaims", going)
    since = time.monotonic()
    await truth.rig.create(A)
    said = f"the PersistentVolumeClaim {CLAIM} of a former owner is being removed and has to go first"
    told = await truth.told(
        "claim of a former owner hangs", Phase.ERROR, Reason.CLUSTER_BUSY, said, "", since + FAST.busy_after, since
    )
    assert HOLD in told.status.message
    await release(truth, f"{claims}/{CLAIM}")
    await truth.rig.settled(A, Phase.RUNNING, 60)


@pytest.mark.find(2)
async def test_stateful_set_that_hangs_during_delete_is_named(truth: Truth) -> None:
    await truth.running()
    path = truth.ground.path("statefulsets", A, APPS)
    await hold(truth, path)
    since = time.monotonic()
    await truth.rig.delete(A)
    shown = await truth.shown("statefulsets", going, since)
    await truth.shown("pods", deleted, since)
    said = f"the StatefulSet {A} is being removed; it has the finalizers: {HOLD}"
    cause = "StatefulSet hangs during Delete"
    await truth.told(cause, Phase.TERMINATING, Reason.WORKLOAD_PENDING, said, "", shown, since)
    await release(truth, path)
    await truth.rig.settled(A, Phase.TERMINATED)
