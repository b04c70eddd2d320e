"""What whoever ran the replaced system checked by hand after each release, once through, as a caller and in the cluster."""

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient

from tests.conftest import Service
from tests.kubernetes.ground import KubernetesGround
from tests.kubernetes.test_service import reached

ID = "shop-agentruntime-1"
CLAIM = f"vn-homevn-agent-{ID}-0"
APPS, NETWORKING = "apis/apps/v1", "apis/networking.k8s.io/v1"


async def test_the_checks_that_were_done_by_hand(service: Service, ground: KubernetesGround) -> None:
    def found(resource: str, name: str, group: str = "api/v1") -> Any:
        return ground.cluster.request("GET", ground.path(resource, name, group))

    async with AsyncClient(service.address) as client:
        # Create a project's sandbox.
        made = await client.create("shop", sandbox_id=ID, env={"DATABASE_URL": "postgres://one"})
        running = await reached(client, ID, pb.PHASE_RUNNING)

        # Persistent storage is mounted at /home/agent.
        (container,) = found("pods", f"{ID}-0")["spec"]["containers"]
        assert [one["mountPath"] for one in container["volumeMounts"]] == ["/home/agent"]
        before = found("persistentvolumeclaims", CLAIM)
        assert (before["status"]["phase"], running.volume.name, running.volume.bound) == ("Bound", CLAIM, True)

        # Environment variables, now and after an update.
        assert container["envFrom"] == [{"secretRef": {"name": f"{ID}-env"}}]
        assert _env(found("secrets", f"{ID}-env")) == {"DATABASE_URL": "postgres://one"}
        updated = await client.update_env(ID, set={"DATABASE_URL": "postgres://two", "DEBUG": "1"})
        await reached(client, ID, pb.PHASE_RUNNING)
        assert _env(found("secrets", f"{ID}-env")) == {"DATABASE_URL": "postgres://two", "DEBUG": "1"}

        # The network: a headless Service for a stable name, and an Ingress each for the application and the terminal.
        headless = found("services", running.service_name)["spec"]
        assert headless["clusterIP"] == "None"
        assert running.dns_name == f"{ID}-0.{running.service_name}.{ground.namespace}.svc"
        for name, url, port in (("app", running.public_url, 3000), ("ttyd", running.ttyd_url, 7681)):
            (rule,) = found("ingresses", f"{ID}-{name}-ingress", NETWORKING)["spec"]["rules"]
            (path,) = rule["http"]["paths"]
            backend = path["backend"]["service"]
            assert (f"https://{rule['host']}", backend["name"]) == (url, running.service_name)
            assert backend["port"]["number"] == port
            assert port in {one["port"] for one in headless["ports"]}

        # Stop and start: what was written is still there, for it is the same claim.
        stopped = await client.stop(ID)
        await reached(client, ID, pb.PHASE_STOPPED)
        assert ground.names("pods") == []
        started = await client.start(ID)
        await reached(client, ID, pb.PHASE_RUNNING)
        assert found("persistentvolumeclaims", CLAIM)["metadata"]["uid"] == before["metadata"]["uid"]

        # Every answer says the StatefulSet's name.
        listed = [one async for one in client.list()]
        deleted = await client.delete(ID)
        answers = [made, running, updated, stopped, started, *listed, await client.get(ID), await client.status(ID)]
        assert {one.stateful_set_name for one in (*answers, deleted)} == {ID}

        # Deleted means all of it.
        await reached(client, ID, pb.PHASE_TERMINATED)
        for resource, group in (("statefulsets", APPS), ("ingresses", NETWORKING), ("services", "api/v1")):
            assert ground.names(resource, group) == []
        assert [ground.names(one) for one in ("pods", "persistentvolumeclaims", "secrets")] == [[], [], []]


async def test_files_persist_over_stop_and_start(make_service: Callable[..., Service]) -> None:
    """On the local engine, where a file is a real one."""
    service = await asyncio.to_thread(make_service().start)
    async with AsyncClient(service.address) as client:
        words = ["/bin/sh", "-c", "test -e notes || echo written >notes; exec sleep 1000"]
        made = await client.create("shop", sandbox_id=ID, spec=pb.SandboxSpec(command=words))
        assert made.stateful_set_name == ID
        await reached(client, ID, pb.PHASE_RUNNING)
        (folder,) = service.sandboxes()
        notes: Path = folder / "volume" / "home" / "notes"
        written = notes.stat()
        await client.stop(ID)
        await reached(client, ID, pb.PHASE_STOPPED)
        await client.start(ID)
        await reached(client, ID, pb.PHASE_RUNNING)
        assert (notes.read_text(), notes.stat().st_mtime_ns) == ("written\n", written.st_mtime_ns)
        await client.delete(ID)
        await reached(client, ID, pb.PHASE_TERMINATED)


def _env(secret: Any) -> dict[str, str]:
    return {name: base64.b64decode(value).decode() for name, value in secret.get("data", {}).items()}
