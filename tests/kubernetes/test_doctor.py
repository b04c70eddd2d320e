"""`sandbox-server doctor` on a real control plane, with the rights of the service's Role."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sandbox_server.doctor.report import Status
from sandbox_server.engines.kubernetes import rights
from sandbox_server.engines.kubernetes.resources import Kind

from tests.kubernetes.cluster import ADMIN, Cluster
from tests.kubernetes.ground import DEPLOY, RBAC, SERVICE, make_namespace, may, namespace_rights
from tests.kubernetes.node import MERGE
from tests.support import programs
from tests.support.examined import Found, examined, not_well, only
from tests.support.waiting import eventually

RIGHTS = [(kind, verb) for kind, verbs in rights.ROLE.items() for verb in verbs]


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> str:
    return make_namespace(cluster)


async def examine(cluster: Cluster, folder: Path, namespace: str, token: str = SERVICE, **settings: object) -> Found:
    kubeconfig = cluster.kubeconfig(folder / "kubeconfig", token)
    given = {"engine": "kubernetes", "kubeconfig": kubeconfig, "namespaces": namespace, "data_dir": folder}
    return await examined({}, **given | settings)


async def test_role_of_deploy_is_enough_and_what_it_does_not_show_is_not_checked(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    found = await examine(cluster, tmp_path, namespace)
    unknown = {one.check: (one.status, one.remedy) for one in not_well(found)}
    assert unknown == {
        "storage class": (Status.NOT_CHECKED, "see `kubectl get storageclasses`"),
        "ingress class": (Status.NOT_CHECKED, "see `kubectl get ingressclasses`"),
        "pod security": (Status.NOT_CHECKED, f"see `kubectl get namespace {namespace} --show-labels`"),
        "pod": (Status.NOT_CHECKED, "run `sandbox-server doctor --kubeconfig FILE` with an administrator's file"),
    }
    assert only(found, "cluster").message.endswith("; the service is sandbox-service")
    assert only(found, "namespace", namespace).status is Status.OK
    assert only(found, "rights", namespace).message == f"all {len(RIGHTS)} rights of the Role are granted"


def test_command_passes_with_the_role_of_deploy(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    kubeconfig = str(cluster.kubeconfig(tmp_path / "kubeconfig", SERVICE))
    settings = ("--kubeconfig", kubeconfig, "--namespaces", namespace, "--data-dir", str(tmp_path))
    done = programs.run("sandbox-server", "doctor", "--engine", "kubernetes", *settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert SERVICE not in done.stdout
    settings = ("--kubeconfig", kubeconfig, "--namespaces", "default", "--data-dir", str(tmp_path))
    assert programs.run("sandbox-server", "doctor", "--engine", "kubernetes", *settings).returncode == 1


@pytest.mark.parametrize(("kind", "verb"), RIGHTS)
async def test_each_verb_that_is_missing_is_named(
    cluster: Cluster, namespace: str, tmp_path: Path, kind: Kind, verb: str
) -> None:
    rules = [
        {"apiGroups": [one.group], "resources": [one.plural], "verbs": [what]}
        for one, what in RIGHTS
        if (one, what) != (kind, verb)
    ]
    path = f"{RBAC}/namespaces/{namespace}/roles/sandbox-service"
    before = await asyncio.to_thread(cluster.request, "GET", path)
    await asyncio.to_thread(cluster.request, "PATCH", path, {"rules": rules}, kind=MERGE)
    try:
        await asyncio.to_thread(eventually, lambda: not may(cluster, namespace, verb, kind.plural, kind.group))
        found = await examine(cluster, tmp_path, namespace)
    finally:
        await asyncio.to_thread(cluster.request, "PATCH", path, {"rules": before["rules"]}, kind=MERGE)
        await asyncio.to_thread(eventually, lambda: may(cluster, namespace, verb, kind.plural, kind.group))
    result = only(found, "rights", namespace)
    name = f"{kind.plural}.{kind.group}" if kind.group else kind.plural
    assert (result.status, result.message) == (Status.FAILURE, f"the service may not {verb} {name}")
    assert result.remedy.endswith(f"run `kubectl apply -n {namespace} -f deploy/role.yaml`")


async def test_namespace_without_the_role(cluster: Cluster, tmp_path: Path) -> None:
    found = await examine(cluster, tmp_path, "default")
    assert only(found, "namespace", "default").status is Status.NOT_CHECKED
    result = only(found, "rights", "default")
    assert result.message == "no right of the Role is granted"
    assert result.remedy.endswith("--role=sandbox-service --user=sandbox-service`")


async def test_namespace_that_is_missing(cluster: Cluster, tmp_path: Path) -> None:
    with namespace_rights(cluster, "missing-ns"):
        found = await examine(cluster, tmp_path, "missing-ns")
    assert only(found, "namespace", "missing-ns").message == "does not exist"


async def test_credentials_that_are_not_known(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    found = await examine(cluster, tmp_path, namespace, token="nobody")
    assert only(found, "cluster").message == "the API server refuses the credentials: Unauthorized"
    assert only(found, "rights", namespace).status is Status.NOT_CHECKED


async def test_certificate_of_another_authority(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    path = cluster.kubeconfig(tmp_path / "other", SERVICE)
    config = json.loads(path.read_text())
    del config["clusters"][0]["cluster"]["certificate-authority-data"]
    path.write_text(json.dumps(config))
    found = await examine(cluster, tmp_path, namespace, kubeconfig=path)
    assert "certificate verify failed" in only(found, "cluster").message


async def test_examination_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    fresh = make_namespace(cluster)
    await examine(cluster, tmp_path, fresh)
    written = [one for one in cluster.audited(fresh) if one["verb"] in ("create", "patch", "delete")]
    assert all("dryRun=All" in one["requestURI"] for one in written)


@pytest.fixture
def classes(cluster: Cluster) -> Iterator[None]:
    """The optional right of deploy/doctor.yaml, and an ingress class."""
    role = yaml.safe_load((DEPLOY / "doctor.yaml").read_text())
    cluster.request("POST", f"{RBAC}/clusterroles", role)
    binding = {
        "metadata": {"name": "sandbox-service-doctor"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role["metadata"]["name"]},
        "subjects": [{"kind": "User", "name": "sandbox-service", "apiGroup": "rbac.authorization.k8s.io"}],
    }
    cluster.request("POST", f"{RBAC}/clusterrolebindings", binding)
    ingress_class = {"metadata": {"name": "nginx"}, "spec": {"controller": "example.com/nginx"}}
    path = "/apis/networking.k8s.io/v1/ingressclasses"
    cluster.request("POST", path, ingress_class)
    eventually(lambda: may(cluster, "", "list", "ingressclasses", "networking.k8s.io"))
    try:
        yield
    finally:
        cluster.request("DELETE", f"{path}/nginx")
        cluster.request("DELETE", f"{RBAC}/clusterrolebindings/sandbox-service-doctor")
        cluster.request("DELETE", f"{RBAC}/clusterroles/sandbox-service-doctor")


@pytest.mark.usefixtures("classes")
async def test_classes(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    found = await examine(cluster, tmp_path, namespace, allowed_storage_classes="missing")
    # The class of the tests is as the control plane's own provisioner has it.
    assert [one.message.partition(":")[0] for one in found["storage class", "the default"]] == ["standard", "standard"]
    assert {one.status for one in found["storage class", "the default"]} == {Status.WARNING}
    missing = only(found, "storage class", "missing")
    assert (missing.status, missing.message) == (Status.FAILURE, "does not exist; there are: standard")
    assert only(found, "ingress class", "nginx").message == "nginx is there"


async def test_pod_of_a_sandbox_is_admitted_under_restricted(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    found = await examine(cluster, tmp_path, namespace, ADMIN)
    assert only(found, "pod security", namespace).message == "the namespace enforces the level restricted"
    assert only(found, "pod", namespace).message == "the pod of a sandbox is admitted"
    patch = '[{"op": "add", "path": "/spec/hostNetwork", "value": true}]'
    result = only(await examine(cluster, tmp_path, namespace, ADMIN, pod_patch=patch), "pod", namespace)
    assert result.status is Status.FAILURE
    assert 'violates PodSecurity "restricted:latest": host namespaces' in result.message
