"""A namespace that is not there, and one that is removed, with the rights that the service has: its Role, which goes
with the namespace, and the optional right to get the namespace."""

import asyncio
import contextlib
import time
import urllib.error
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sandbox_server.domain.phase import Phase, Reason

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.ground import KubernetesGround, make_namespace, namespace_rights, started
from tests.kubernetes.node import MERGE, Node
from tests.kubernetes.truth import A, Truth, conditions, no_pod
from tests.kubernetes.witness import Witness, deleted, going
from tests.support.rig import Rig
from tests.support.waiting import eventually

MAY_BE_GONE = "the namespace may be gone"


@contextlib.asynccontextmanager
async def service(ground: KubernetesGround, folder: Path, rights: bool) -> AsyncIterator[Truth]:
    """A rig over a namespace, with the right to get it or without."""
    named = namespace_rights(ground.cluster, ground.namespace) if rights else contextlib.nullcontext()
    with named:
        async with Witness(ground.cluster, ground.namespace) as witness, started(Rig(ground, folder)) as rig:
            yield Truth(rig, ground, witness)


@pytest.mark.fault(32)
@pytest.mark.fault(58)
@pytest.mark.find(6)
@pytest.mark.parametrize("rights", [False, True])
async def test_32_a_missing_namespace_is_said_and_recovered_from(
    cluster: Cluster, node: Node, tmp_path: Path, rights: bool
) -> None:
    name = f"test-{uuid.uuid4().hex[:8]}"
    async with service(KubernetesGround(cluster, node, tmp_path, name), tmp_path, rights) as truth:
        shown = time.monotonic()
        await truth.rig.create(A)
        if rights:
            reason, words, seen = Reason.NAMESPACE_MISSING, f'namespaces "{name}" not found', no_pod
            cause = "namespace missing, with the right to get it"
            await truth.told(cause, Phase.ERROR, reason, words, seen(reason), shown)
        else:
            cause = "namespace missing, without the right to get it"
            await truth.told(cause, Phase.ERROR, Reason.CLUSTER_FORBIDDEN, MAY_BE_GONE, "", shown)
        await asyncio.to_thread(make_namespace, cluster, name)
        await truth.rig.settled(A, Phase.RUNNING, 60)


@pytest.mark.fault(32)
@pytest.mark.fault(58)
@pytest.mark.find(6)
@pytest.mark.parametrize("rights", [False, True])
@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.STOPPED])
async def test_32_a_terminating_namespace_is_said_and_a_delete_in_it_ends(
    ground: KubernetesGround, tmp_path: Path, rights: bool, phase: Phase
) -> None:
    async with service(ground, tmp_path, rights) as truth:
        await (await truth.sighted()).running()
        if phase is Phase.STOPPED:
            await truth.rig.begin(A, phase)
            await truth.rig.settled(A, phase)
        held = {"metadata": {"name": "hold", "finalizers": ["example.com/hold"]}}
        await truth.request("POST", ground.path("configmaps"), held)
        told, since = len(truth.rig.history), time.monotonic()
        await truth.request("DELETE", f"/api/v1/namespaces/{ground.namespace}")
        reason = Reason.NAMESPACE_TERMINATING
        if phase is Phase.RUNNING:
            shown = await truth.shown("pods", going, since)
            first = await truth.rig.until(A, lambda one: one.status.reason is reason)
            # The pod is gone as soon as it is going, or a moment later.
            seen = conditions(first.status)
            assert seen in ("+ + + + -ROLLING_OUT", no_pod(reason, "+"))
        else:
            seen = no_pod(reason, "-VOLUME_LOST")
            shown = await truth.shown("persistentvolumeclaims", deleted, since)
        cause = f"namespace being removed, {phase.name}" + (", with the right to get it" if rights else "")
        # The Role of a stopped sandbox may go before anything of the sandbox does: then the rest follows from its end.
        await truth.rig.until(A, lambda one: one.status.reason is reason)
        early = [one.status for one in truth.rig.history[told:] if one.status.reason is Reason.CLUSTER_FORBIDDEN]
        assert all(phase is Phase.STOPPED and not rights and MAY_BE_GONE in one.message for one in early)
        words = "" if early else "is being terminated"
        await truth.told(cause, Phase.ERROR, reason, words, seen, shown, since)
        await asyncio.sleep(8)
        await truth.request("PATCH", ground.path("configmaps", "hold"), {"metadata": {"finalizers": None}}, MERGE)
        await asyncio.to_thread(eventually, lambda: gone(ground.cluster, f"/api/v1/namespaces/{ground.namespace}"), 30)
        if rights:
            await truth.rig.until(A, lambda one: one.status.reason is Reason.NAMESPACE_MISSING, 60)
        else:
            await truth.rig.until(A, lambda one: MAY_BE_GONE in one.status.message, 60)
        assert {one.status.reason for one in truth.rig.history[told:]} <= {
            reason,
            Reason.NAMESPACE_MISSING,
            *(one.reason for one in early),
        }
        await truth.rig.delete(A)
        assert (await truth.rig.settled(A, Phase.TERMINATED)).status.reason is Reason.DELETED


@pytest.mark.fault(32)
@pytest.mark.fault(58)
@pytest.mark.find(6)
async def test_32_a_create_in_a_terminating_namespace_is_refused_and_succeeds_in_the_next_one(
    ground: KubernetesGround, tmp_path: Path
) -> None:
    path, hold = f"/api/v1/namespaces/{ground.namespace}", ground.path("configmaps", "hold")
    held = {"metadata": {"name": "hold", "finalizers": ["example.com/hold"]}}
    async with service(ground, tmp_path, rights=False) as truth:
        await truth.sighted()
        await truth.request("POST", ground.path("configmaps"), held)
        await truth.request("DELETE", path)
        shown, reason = time.monotonic(), Reason.NAMESPACE_TERMINATING
        await truth.rig.create(A)
        cause = "create in a namespace that is being removed"
        await truth.told(cause, Phase.ERROR, reason, "is being terminated", no_pod(reason), shown)
        await truth.request("PATCH", hold, {"metadata": {"finalizers": None}}, MERGE)
        await asyncio.to_thread(eventually, lambda: gone(ground.cluster, path), 30)
        await asyncio.to_thread(make_namespace, ground.cluster, ground.namespace)
        await truth.rig.settled(A, Phase.RUNNING, 60)


def gone(cluster: Cluster, path: str) -> bool:
    try:
        cluster.request("GET", path)
    except urllib.error.HTTPError as error:
        return error.code == 404
    return False
