"""The service as its callers meet it, a process of its own before the real control plane."""

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient, errors
from sandbox_server.domain import check

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.ground import RBAC, RESYNC, KubernetesGround, may
from tests.kubernetes.node import MERGE, Node
from tests.support.service import Service
from tests.support.waiting import PATIENCE, eventually

NAMES = [f"refused-{number}" for number in range(5)]


async def reached(
    client: AsyncClient, sandbox_id: str, phase: "pb.Phase.ValueType", within: float = 60
) -> pb.SandboxStatus:
    async with asyncio.timeout(within * PATIENCE):
        while True:
            status = await client.status(sandbox_id)
            if status.phase == phase and status.observed_generation == status.generation:
                return status
            await asyncio.sleep(0.05)


@pytest.mark.fault(33)
async def test_33_a_missing_right_is_no_storm_and_never_the_callers_fault(
    service: Service, ground: KubernetesGround
) -> None:
    path = ground.path("roles", "sandbox-service", RBAC.strip("/"))
    rules = ground.cluster.request("GET", path)["rules"]
    less = [one for one in rules if "get" not in one["verbs"]]
    ground.cluster.request("PATCH", path, {"rules": less}, kind=MERGE)
    where = ground.cluster, ground.namespace
    await asyncio.to_thread(eventually, lambda: not may(*where, "patch", "services"))
    began = time.monotonic()
    async with AsyncClient(service.address) as client:
        for name in NAMES:
            await client.create("refused", sandbox_id=name, env={"A": "1"})
        for name in NAMES:
            async with asyncio.timeout(10 * PATIENCE):
                while (status := await client.status(name)).reason != pb.REASON_CLUSTER_FORBIDDEN:
                    await asyncio.sleep(0.05)
            assert status.phase == pb.PHASE_ERROR
            # The first of a sandbox's objects to be written.
            assert 'cannot patch resource "services"' in status.message
        # Mutations are taken as ever, and none is answered PERMISSION_DENIED: a ServiceError would end the test here.
        await client.update_env(NAMES[0], set={"A": "2"})
        await client.stop(NAMES[1])
        await client.start(NAMES[1])
        await client.get(NAMES[2])
        assert len([one async for one in client.list()]) == len(NAMES)
        await asyncio.sleep(12)
        lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
        said = [one for one in lines if one["event"] == "engine_failed" and one["reason"] == "CLUSTER_FORBIDDEN"]
        assert len(said) == 1
        refused = [one for one in ground.cluster.audited(ground.namespace) if one["responseStatus"]["code"] == 403]
        # Without a name: trials of whether the namespace is going.
        asked = Counter(one["objectRef"].get("name", "") for one in refused)
        # The first try, one after each delay that doubles from a tenth of a second at the least, and each resync's.
        passed = time.monotonic() - began
        assert 1 <= asked[f"{NAMES[4]}-service"] <= 1 + math.log2(10 * passed + 1) + math.ceil(passed / RESYNC)
        ground.cluster.request("PATCH", path, {"rules": rules}, kind=MERGE)
        for name in NAMES:
            await reached(client, name, pb.PHASE_RUNNING)
            await client.delete(name)
        for name in NAMES:
            await reached(client, name, pb.PHASE_TERMINATED)


@pytest.mark.fault(34)
async def test_34_the_most_that_is_allowed_is_taken_and_more_is_refused_before_anything_is_written(
    service: Service, ground: KubernetesGround
) -> None:
    longest = "a" * check.ID_MOST
    each = check.ENV_TOTAL_MOST // check.ENV_VARIABLES_MOST
    most = {f"K{number:0252}": "v" * (each - 253) for number in range(check.ENV_VARIABLES_MOST)}
    async with AsyncClient(service.address) as client:
        for name, env in (
            ("name", {"K" * 254: "1"}),
            (longest + "a", {"A": "1"}),
            ("b" * 63, {"A": "1"}),
            ("too-much", {f"K{number}": "v" * 30_000 for number in range(35)}),
            ("too-long", {"A": "v" * (128 * 1024 + 1)}),
            ("nul", {"A": "a\0b"}),
        ):
            with pytest.raises(errors.InvalidArgument) as caught:
                await client.create("limits", sandbox_id=name, env=env)
            assert len(caught.value.fields) == 1
        assert [one async for one in client.list()] == []
        await client.create("limits", sandbox_id=longest, env=most)
        await reached(client, longest, pb.PHASE_RUNNING)
        written = [
            one for one in ground.cluster.audited(ground.namespace) if one["verb"] not in ("get", "list", "watch")
        ]
        parts = ("env-1", "service", "app-ingress", "ttyd-ingress")
        names = {longest, f"vn-homevn-agent-{longest}-0", *(f"{longest}-{part}" for part in parts)}
        assert {one["objectRef"]["name"] for one in written} == names
        secret = ground.cluster.request("GET", ground.path("secrets", f"{longest}-env-1"))
        assert len(secret["data"]) == len(most)
        await client.delete(longest)
        await reached(client, longest, pb.PHASE_TERMINATED)


@pytest.mark.fault(33)
async def test_33_a_namespace_that_may_not_be_seen_is_nobody_elses_trouble(
    cluster: Cluster, node: Node, ground: KubernetesGround, make_service: Callable[..., Service], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = KubernetesGround(cluster, node, tmp_path / "other")
    path = other.path("rolebindings", "sandbox-service", RBAC.strip("/"))
    binding = cluster.request("GET", path)
    cluster.request("DELETE", path)
    tokens, file = {one: f"token-of-tenant-{one}" for one in "ab"}, tmp_path / "tenants.json"
    owned = {"a": [ground.namespace], "b": [other.namespace]}
    file.write_text(
        json.dumps({"tenants": [{"name": one, "namespaces": owned[one], "tokens": [tokens[one]]} for one in owned]})
    )
    flags = ("--engine", "kubernetes", "--kubeconfig", str(ground.settings.kubeconfig), "--token-file", str(file))
    service = make_service(*flags).start(wait=False)
    async with (
        AsyncClient(service.address, token=tokens["a"], contact_timeout=30 * PATIENCE) as a,
        AsyncClient(service.address, token=tokens["b"], contact_timeout=30 * PATIENCE) as b,
    ):
        await a.create("mine", sandbox_id="mine")
        mine = await reached(a, "mine", pb.PHASE_RUNNING)
        assert not mine.stale
        await b.create("theirs", sandbox_id="theirs")
        async with asyncio.timeout(10 * PATIENCE):
            while (theirs := await b.status("theirs")).reason != pb.REASON_CLUSTER_FORBIDDEN:
                await asyncio.sleep(0.05)
        assert theirs.stale
        assert f'in the namespace "{other.namespace}"' in theirs.message
        await a.stop("mine")
        stopped = await reached(a, "mine", pb.PHASE_STOPPED)
        assert not stopped.stale
        cluster.request(
            "POST",
            path.rpartition("/")[0],
            {"metadata": {"name": "sandbox-service"}} | {one: binding[one] for one in ("roleRef", "subjects")},
        )
        await reached(b, "theirs", pb.PHASE_RUNNING)
