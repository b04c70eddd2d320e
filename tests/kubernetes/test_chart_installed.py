"""The chart, installed by helm on the real control plane: its pods run as processes, and a caller has a sandbox."""

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient

from tests.kubernetes import charts
from tests.kubernetes.cluster import ADMIN, Cluster
from tests.kubernetes.ground import RBAC
from tests.kubernetes.node import Node
from tests.kubernetes.processes import Processes
from tests.support.certificates import certificate
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a process as the image's user")

TOKEN = "the-token-of-tenant-a"
NAME = "r-sandbox-service"


class Installation:
    """A namespace for the release `r`, which enforces Pod Security "restricted", and one for sandboxes of a tenant."""

    def __init__(self, cluster: Cluster, processes: Processes, folder: Path) -> None:
        self.cluster = cluster
        self.processes = processes
        self.namespace, self.tenant = f"system-{os.urandom(3).hex()}", f"tenant-{os.urandom(3).hex()}"
        self.kubeconfig = cluster.kubeconfig(folder / "admin", ADMIN)
        for name in (self.namespace, self.tenant):
            labels = {"pod-security.kubernetes.io/enforce": "restricted"}
            cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})

    def secret(self, name: str, content: dict[str, bytes], kind: str = "Opaque") -> None:
        data = {key: base64.b64encode(value).decode() for key, value in content.items()}
        self.cluster.request("POST", self.path("secrets"), {"metadata": {"name": name}, "type": kind, "data": data})

    def path(self, resource: str, name: str = "", group: str = "api/v1", namespace: str = "") -> str:
        return f"/{group}/namespaces/{namespace or self.namespace}/{resource}" + (f"/{name}" if name else "")

    def get(self, *words: str, **more: str) -> dict[str, Any]:
        return dict(self.cluster.request("GET", self.path(*words, **more)))

    def sandbox_objects(self) -> dict[str, tuple[str, int]]:
        """The uid and the generation of the workload, the pod and the disk of each sandbox."""
        found = {}
        for resource, group in (
            ("statefulsets", "apis/apps/v1"),
            ("pods", "api/v1"),
            ("persistentvolumeclaims", "api/v1"),
        ):
            for one in self.get(resource, group=group, namespace=self.tenant)["items"]:
                meta = one["metadata"]
                found[f"{resource}/{meta['name']}"] = meta["uid"], meta.get("generation", 0)
        return found

    def replica(self) -> str:
        """The name of a pod that serves, and goes on doing so."""
        pods = self.get("pods")["items"]
        staying = [one for one in pods if "deletionTimestamp" not in one["metadata"]]
        return str(next(one["metadata"]["name"] for one in staying if one["status"]["phase"] == "Running"))

    async def helm(self, *words: str | Path) -> str:
        words = (*words, "--namespace", self.namespace)
        try:
            return await asyncio.to_thread(charts.helm, *words, kubeconfig=self.kubeconfig)
        except charts.HelmFailed as error:
            logs = [one.read_text()[-2000:] for one in self.processes.folder.glob(f"{self.namespace}-*.log")]
            raise charts.HelmFailed("\n".join([str(error), *logs])) from None

    async def install(self, values: dict[str, Any]) -> str:
        """Installs the release or upgrades it, and returns when its pods are ready."""
        words = ["--wait", "--timeout", "4m", *charts.given(values)]
        return await self.helm("upgrade", "--install", "r", charts.CHART, *words)


@contextlib.asynccontextmanager
async def called(installed: Installation, **options: Any) -> AsyncIterator[AsyncClient]:
    """A client of one of the replicas."""
    port = installed.processes.ports[installed.namespace, installed.replica()][50051]
    async with AsyncClient(f"127.0.0.1:{port}", contact_timeout=30 * PATIENCE, **options) as client:
        yield client


async def reached(client: AsyncClient, sandbox_id: str, phase: "pb.Phase.ValueType") -> None:
    async with asyncio.timeout(60 * PATIENCE):
        while (await client.status(sandbox_id)).phase != phase:
            await asyncio.sleep(0.05)


@pytest.fixture
async def processes(cluster: Cluster, node: Node) -> AsyncIterator[Processes]:
    async with Processes(cluster) as made:
        yield made


async def test_replicas_on_postgresql_with_tls_and_tokens_run_sandboxes_which_no_release_touches(
    cluster: Cluster, processes: Processes, postgres: Callable[[], str], tmp_path: Path
) -> None:
    installed = Installation(cluster, processes, tmp_path)
    chain, key = certificate(tmp_path, "served")
    tenants = {"tenants": [{"name": "a", "namespaces": [installed.tenant], "tokens": [TOKEN]}]}
    installed.secret("database", {"url": postgres().encode()})
    installed.secret("keys", {"env.keys": base64.b64encode(b"k" * 32)})
    installed.secret("tokens", {"tenants.json": json.dumps(tenants).encode()})
    installed.secret("tls", {"tls.crt": chain.read_bytes(), "tls.key": key.read_bytes()}, "kubernetes.io/tls")
    # The doctor fails without it.
    ingress_class = {"metadata": {"name": installed.namespace}, "spec": {"controller": "example.com/none"}}
    cluster.request("POST", "/apis/networking.k8s.io/v1/ingressclasses", ingress_class)
    values = {
        "image.repository": "registry.example.com/sandbox-service",
        "tenantNamespaces": [installed.tenant],
        "clusterRights": True,
        "settings.ingress-class": installed.namespace,
        "settings.ready-for": 0,
        **{f"{name}.secret": name for name in ("database", "keys", "tokens", "tls")},
    }
    notes = await installed.install(values)
    assert f"r serves {NAME}.{installed.namespace}.svc:50051 with TLS, with 2 replica(s)." in notes
    deployment = installed.get("deployments", NAME, group="apis/apps/v1")
    assert deployment["status"]["readyReplicas"] == 2
    # The hook has migrated the database and is gone.
    assert installed.get("jobs", group="apis/batch/v1")["items"] == []
    assert installed.get("poddisruptionbudgets", NAME, group="apis/policy/v1")["status"]["desiredHealthy"] == 1
    tested = await installed.helm("test", "r")
    assert tested.count("Phase:          Succeeded") == 2, processes.log(installed.namespace, f"{NAME}-doctor")
    assert processes.log(installed.namespace, f"{NAME}-health").startswith("SERVING ")
    told = processes.log(installed.namespace, f"{NAME}-doctor")
    assert f"system:serviceaccount:{installed.namespace}:{NAME}" in told
    assert f"{installed.tenant}: exists" in told
    async with called(installed, token=TOKEN, ca_file=chain) as client:
        await client.create("demo", sandbox_id="demo", env={"A": "1"})
        await reached(client, "demo", pb.PHASE_RUNNING)
    before = installed.sandbox_objects()
    assert set(before) == {"statefulsets/demo", "pods/demo-0", "persistentvolumeclaims/vn-homevn-agent-demo-0"}
    await installed.install(values | {"settings.resync": 5, "podAnnotations": {"release": "2"}})
    await installed.helm("rollback", "r", "1", "--wait", "--timeout", "4m")
    assert "release" not in installed.get("deployments", NAME, group="apis/apps/v1")["spec"]["template"]["metadata"]
    assert installed.sandbox_objects() == before
    async with called(installed, token=TOKEN, ca_file=chain) as client:
        await client.create("other", sandbox_id="other")
        await reached(client, "other", pb.PHASE_RUNNING)
        await client.delete("other")
        await reached(client, "other", pb.PHASE_TERMINATED)
        await reached(client, "demo", pb.PHASE_RUNNING)
    await installed.helm("uninstall", "r", "--wait")
    assert installed.sandbox_objects() == before
    for resource in ("roles", "rolebindings"):
        assert installed.get(resource, group=RBAC.strip("/"), namespace=installed.tenant)["items"] == []


async def test_one_replica_on_sqlite_keeps_its_database_over_upgrade_and_uninstall(
    cluster: Cluster, processes: Processes, tmp_path: Path
) -> None:
    installed = Installation(cluster, processes, tmp_path)
    values = {
        "image.repository": "registry.example.com/sandbox-service",
        "replicas": 1,
        "tenantNamespaces": [installed.tenant],
        "database.sqlite.enabled": True,
        "allowAnonymous": True,
        "allowPlaintext": True,
        "settings.ready-for": 0,
    }
    assert "in plaintext, with 1 replica(s)" in await installed.install(values)
    assert (await installed.helm("test", "r")).count("Phase:          Succeeded") == 1
    async with called(installed) as client:
        await client.create("demo", sandbox_id="demo")
        await reached(client, "demo", pb.PHASE_RUNNING)
    before = installed.sandbox_objects()
    await installed.install(values | {"podAnnotations": {"release": "2"}})
    async with called(installed) as client:
        await reached(client, "demo", pb.PHASE_RUNNING)
    await installed.helm("uninstall", "r", "--wait")
    await installed.install(values)
    async with called(installed) as client:
        await reached(client, "demo", pb.PHASE_RUNNING)
        assert installed.sandbox_objects() == before
        await client.delete("demo")
        await reached(client, "demo", pb.PHASE_TERMINATED)


async def test_a_namespace_that_is_not_there_fails_the_installation_by_its_name(
    cluster: Cluster, processes: Processes, tmp_path: Path
) -> None:
    installed = Installation(cluster, processes, tmp_path)
    values = {
        "image.repository": "registry.example.com/sandbox-service",
        "replicas": 1,
        "tenantNamespaces": [installed.tenant, "not-there"],
        "database.sqlite.enabled": True,
        "allowAnonymous": True,
        "allowPlaintext": True,
    }
    with pytest.raises(charts.HelmFailed, match='namespaces "not-there" not found'):
        await installed.install(values)


def commands(first_word: str) -> str:
    """The block of commands of the page that begins with these words."""
    page = (charts.DEPLOY.parent / "docs" / "kubernetes.md").read_text()
    blocks = [textwrap.dedent(one) for one in re.findall(r"^   ```\n(.*?)^   ```$", page, re.DOTALL | re.MULTILINE)]
    (found,) = [one for one in blocks if one.startswith(first_word)]
    return found


async def test_the_commands_of_the_page_install_the_service_from_an_empty_folder(
    cluster: Cluster, processes: Processes, postgres: Callable[[], str], tmp_path: Path
) -> None:
    tools, clone = tmp_path / "tools", tmp_path / "clone"
    tools.mkdir()
    for name, words in (("kubectl", f"{cluster.binary} kubectl"), ("helm", str(charts.build()))):
        (tools / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        (tools / name).chmod(0o755)
    shutil.copytree(charts.DEPLOY, clone / "deploy", symlinks=True)
    shutil.copy(charts.PRODUCTION, clone / "values.yaml")
    secrets, count = re.subn("postgresql://[^']+", lambda _: postgres(), commands("mkdir"))
    assert count == 1
    # No kubelet serves the logs.
    install = commands("helm").replace(" --logs", "")
    script = "\n".join(["set -eu", commands("kubectl create namespace"), secrets, install])
    env = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "KUBECONFIG": str(cluster.kubeconfig(tmp_path / "admin", ADMIN)),
    }
    words = ["bash", "-c", script]
    done = await asyncio.to_thread(subprocess.run, words, cwd=clone, env=env, capture_output=True, text=True)
    logs = [one.read_text()[-1000:] for one in processes.folder.glob("sandbox-system-*.log")]
    assert done.returncode == 0, "\n".join([done.stderr, *logs])
    assert done.stdout.count("Phase:          Succeeded") == 2
    token = (tmp_path / "sandbox-secrets" / "team-a.token").read_text().strip()
    pods = cluster.request(
        "GET", "/api/v1/namespaces/sandbox-system/pods?labelSelector=app.kubernetes.io/component=server"
    )
    port = processes.ports["sandbox-system", pods["items"][0]["metadata"]["name"]][50051]
    authority = tmp_path / "sandbox-secrets" / "tls.crt"
    async with AsyncClient(
        f"localhost:{port}", contact_timeout=30 * PATIENCE, token=token, ca_file=authority
    ) as client:
        await client.create("demo", sandbox_id="demo-1")
        await reached(client, "demo-1", pb.PHASE_RUNNING)
        await client.delete("demo-1")
        await reached(client, "demo-1", pb.PHASE_TERMINATED)
    await asyncio.to_thread(
        charts.helm,
        "uninstall",
        "sandbox-service",
        "--namespace",
        "sandbox-system",
        "--wait",
        kubeconfig=tmp_path / "admin",
    )
    # The same as plain manifests. With the home of the tests, where helm is built already.
    words = ["make", "-s", "-C", str(charts.DEPLOY.parent), "manifests", f"VALUES={clone / 'values.yaml'}"]
    printed = await asyncio.to_thread(subprocess.run, words, check=True, capture_output=True, text=True)
    words = [str(cluster.binary), "kubectl", "apply", "--dry-run=server", "-f", "-"]
    done = await asyncio.to_thread(
        subprocess.run, words, env=env, input=printed.stdout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "deployment.apps/sandbox-service created (server dry run)" in done.stdout
    assert "role.rbac.authorization.k8s.io/sandbox-service created (server dry run)" in done.stdout
