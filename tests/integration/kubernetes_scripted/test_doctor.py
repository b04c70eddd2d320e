"""`sandbox-server doctor` against a scripted API server."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from sandbox_server.doctor.report import Status
from sandbox_server.engines.kubernetes import rights

from tests.support import samples
from tests.support.examined import Found, examined, not_well, only
from tests.support.ports import free_port
from tests.support.samples import CANARY
from tests.support.scripted_api import ScriptedApi, status
from tests.support.scripted_cluster import USER
from tests.support.variants import some

EXEC = {"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/echo", "args": [CANARY]}


def named(user: object) -> dict[str, Any]:
    """A kubeconfig with that user."""
    return {
        "current-context": "t",
        "users": [{"name": "t", "user": user}],
        "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
        "clusters": [{"name": "t", "cluster": {"server": "https://127.0.0.1:1"}}],
    }


Examine = Callable[..., Awaitable[Found]]


@pytest.fixture
def examine(api: ScriptedApi, tmp_path: Path) -> Examine:
    settings: dict[str, Any] = {
        "engine": "kubernetes",
        "kubeconfig": api.kubeconfig(tmp_path),
        "data_dir": tmp_path,
        "namespaces": "a-ns",
    }
    return lambda **changes: examined({}, **settings | changes)


async def test_cluster_that_answers_says_its_version_and_who_the_service_is(examine: Examine) -> None:
    found = await examine()
    assert only(found, "cluster").message == f"Kubernetes v1.36.3 answers; the service is {USER}"
    assert only(found, "clock", "cluster").status is Status.OK
    assert only(found, "rights", "a-ns").status is Status.OK


async def test_examination_writes_nothing(examine: Examine, api: ScriptedApi) -> None:
    await examine()
    reviews = {path.rpartition("/")[2] for method, path in api.calls if method not in ("GET", "TRIAL")}
    assert reviews == {"selfsubjectreviews", "selfsubjectaccessreviews"}
    assert api.objects == {}


async def test_server_that_is_not_there_is_a_failure_and_the_rest_is_not_checked(
    examine: Examine, tmp_path: Path
) -> None:
    found = await examine(kubeconfig=samples.kubeconfig(tmp_path, free_port()))
    assert only(found, "cluster").status is Status.FAILURE
    assert "Cannot connect" in only(found, "cluster").message
    for check, subject in (("clock", "cluster"), ("namespace", "a-ns"), ("rights", "a-ns")):
        assert only(found, check, subject).status is Status.NOT_CHECKED
        assert only(found, check, subject).message == "the cluster does not answer"


async def test_silent_server_is_a_failure_within_the_time_limit(examine: Examine, api: ScriptedApi) -> None:
    async def hang(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(5)
        raise AssertionError

    api.lasting.append((lambda _: True, hang))
    found = await examine(cluster_timeout=0.2)
    assert only(found, "cluster").status is Status.FAILURE


async def test_kubeconfig_that_is_missing_is_a_failure(examine: Examine, tmp_path: Path) -> None:
    found = await examine(kubeconfig=tmp_path / "missing")
    assert "is not a file" in only(found, "cluster").message
    assert only(found, "cluster").remedy


@pytest.mark.parametrize(
    "content",
    [
        f"users:\n- name: a\n  user: {{token: {CANARY}\n: : {CANARY}",
        f"users:\n\t- token: {CANARY}",
        json.dumps(named({"client-certificate-data": CANARY, "client-key-data": CANARY})),
        json.dumps(named(CANARY)),
        json.dumps(named({"exec": EXEC})),
    ],
    ids=["flow", "tab", "certificate", "user", "exec"],
)
async def test_kubeconfig_that_is_broken_is_a_failure_that_shows_no_secret(
    examine: Examine, tmp_path: Path, content: str
) -> None:
    (tmp_path / "broken").write_text(content)
    found = await examine(kubeconfig=tmp_path / "broken")
    assert only(found, "cluster").status is Status.FAILURE
    assert CANARY not in str(found)


async def test_credentials_that_are_refused_are_a_failure(examine: Examine, api: ScriptedApi) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return status(401, "Unauthorized")

    api.lasting.append((lambda _: True, refuse))
    found = await examine()
    assert only(found, "cluster").message == "the API server refuses the credentials: Unauthorized"


@pytest.mark.parametrize(
    ("ahead", "expected"), [(0, Status.OK), (7, Status.WARNING), (-7, Status.WARNING), (-90, Status.FAILURE)]
)
async def test_clock_of_the_api_server(examine: Examine, api: ScriptedApi, ahead: int, expected: Status) -> None:
    api.cluster.ahead = timedelta(seconds=ahead)
    assert only(await examine(), "clock", "cluster").status is expected


@pytest.mark.parametrize(
    ("kind", "verb"), some([(kind, verb) for kind, verbs in rights.ROLE.items() for verb in verbs], 0, 9, 19)
)
async def test_each_verb_that_is_missing_is_named(examine: Examine, api: ScriptedApi, kind: Any, verb: str) -> None:
    name = f"{kind.plural}.{kind.group}" if kind.group else kind.plural
    api.cluster.denied |= {(name, verb)}
    result = only(await examine(), "rights", "a-ns")
    assert (result.status, result.message) == (Status.FAILURE, f"the service may not {verb} {name}")
    assert result.remedy.endswith("run `kubectl apply -n a-ns -f deploy/role.yaml`")


async def test_role_that_is_not_bound_is_one_failure_that_says_how_to_bind_it(
    examine: Examine, api: ScriptedApi
) -> None:
    api.cluster.denied = {
        (f"{kind.plural}.{kind.group}" if kind.group else kind.plural, verb)
        for kind, verbs in rights.ROLE.items()
        for verb in verbs
    }
    result = only(await examine(), "rights", "a-ns")
    assert result.message == "no right of the Role is granted"
    assert result.remedy.endswith("--role=sandbox-service --serviceaccount=sandbox-system:sandbox-service`")


ACCESS = [(resource, verb) for resource, verbs in rights.ACCESS.items() for verb in verbs]


@pytest.mark.slow
async def test_rights_to_work_in_sandboxes_may_be_left_out_but_not_in_part(examine: Examine, api: ScriptedApi) -> None:
    found = only(await examine(), "access", "a-ns")
    assert (found.status, found.message) == (Status.OK, "all 6 rights to work in sandboxes are granted")
    denied = api.cluster.denied
    api.cluster.denied = denied | {*ACCESS}
    found = only(await examine(), "access", "a-ns")
    assert found.status is Status.OK
    assert found.message.startswith("access not granted: ")
    for resource, verb in ACCESS:
        api.cluster.denied = denied | {(resource, verb)}
        found = only(await examine(), "access", "a-ns")
        assert found.status is Status.WARNING
        assert f"the service may not {verb} {resource}," in found.message
        assert found.remedy.endswith("run `kubectl apply -n a-ns -f deploy/access.yaml`")


@pytest.mark.slow
async def test_rights_to_verify_snapshots_may_be_left_out_but_not_in_part(examine: Examine, api: ScriptedApi) -> None:
    api.cluster.denied = set()
    found = only(await examine(), "verification", "a-ns")
    assert (found.status, found.message) == (Status.OK, "all rights to verify snapshots are granted")
    api.cluster.denied = {("pods", verb) for verb in rights.VERIFICATION}
    found = only(await examine(), "verification", "a-ns")
    assert found.status is Status.OK
    assert found.message.startswith("not granted: ")
    api.cluster.denied = {("pods", "delete")}
    found = only(await examine(), "verification", "a-ns")
    assert found.status is Status.WARNING
    assert found.message.startswith("the service may not delete pods:")
    assert found.remedy.endswith("run `kubectl apply -n a-ns -f deploy/verification.yaml`")


@pytest.mark.slow
async def test_namespaces_are_those_of_the_token_file(examine: Examine, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text('{"tenants": [{"name": "a", "namespaces": ["b-ns", "c-ns"], "tokens": ["%s"]}]}' % (CANARY * 2))
    found = await examine(token_file=path)
    assert [subject for check, subject in found if check == "rights"] == ["b-ns", "c-ns"]
    path.write_text("{}")
    found = await examine(token_file=path)
    assert only(found, "rights").message == "the token file cannot be used"
    assert only(found, "cluster").status is Status.OK


@pytest.mark.parametrize("readable", [True, False])
async def test_namespace_that_exists(examine: Examine, api: ScriptedApi, readable: bool) -> None:
    api.namespace_rights = readable
    assert only(await examine(), "namespace", "a-ns").status is Status.OK


async def test_namespace_that_is_missing_or_going_is_a_failure(examine: Examine, api: ScriptedApi) -> None:
    api.namespace_rights = True
    api.namespace = "Missing"
    missing = only(await examine(), "namespace", "a-ns")
    assert missing.message == "does not exist"
    assert missing.remedy.startswith("run `kubectl create namespace a-ns`")
    api.namespace = "Terminating"
    found = await examine()
    assert "is being terminated" in only(found, "namespace", "a-ns").message
    assert only(found, "rights", "a-ns").message == "the namespace is missing or is being removed"


async def test_namespace_that_cannot_be_seen_is_not_checked(examine: Examine, api: ScriptedApi) -> None:
    api.role = False
    result = only(await examine(), "namespace", "a-ns")
    assert (result.status, result.remedy) == (Status.NOT_CHECKED, "see `kubectl get namespace a-ns`")


async def test_pod_patch_that_applies_to_no_sandbox_is_a_failure(examine: Examine) -> None:
    found = await examine(pod_patch='[{"op": "remove", "path": "/spec/nothing"}]')
    (result,) = not_well({("pod-patch", ""): found["pod-patch", ""]})
    assert result.status is Status.FAILURE


# --- classes

DEFAULT = "the default"


def storage_class(name: str, default: bool = False, **fields: Any) -> dict[str, Any]:
    metadata = {"name": name} | (
        {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}} if default else {}
    )
    usual = {"provisioner": "csi.example", "allowVolumeExpansion": True, "volumeBindingMode": "WaitForFirstConsumer"}
    return {"metadata": metadata, **usual, **fields}


@pytest.mark.slow
async def test_classes_that_may_not_be_listed_are_not_checked_and_the_message_says_how_to_look(
    examine: Examine,
) -> None:
    found = await examine()
    for check, subject, command in (
        ("storage class", DEFAULT, "see `kubectl get storageclasses`"),
        ("ingress class", "nginx", "see `kubectl get ingressclasses`"),
    ):
        assert (only(found, check, subject).status, only(found, check, subject).remedy) == (Status.NOT_CHECKED, command)


@pytest.mark.slow
async def test_storage_class(examine: Examine, api: ScriptedApi) -> None:
    api.cluster.objects["storageclasses"] = [storage_class("slow", default=True), storage_class("fast")]
    found = await examine(storage_class="fast", allowed_storage_classes="slow,gone")
    assert only(found, "storage class", "fast").status is Status.OK
    assert only(found, "storage class", "slow").status is Status.OK
    gone = only(found, "storage class", "gone")
    assert (gone.status, gone.message) == (Status.FAILURE, "does not exist; there are: slow, fast")
    found = await examine()
    assert only(found, "storage class", DEFAULT).message.startswith("slow of csi.example is there")


@pytest.mark.parametrize(
    ("listed", "expected", "words"),
    [
        ([], Status.FAILURE, "no default storage class; there are: none"),
        ([storage_class("fast")], Status.FAILURE, "no default storage class; there are: fast"),
        ([storage_class("a", True), storage_class("b", True)], Status.WARNING, "several are the default: a, b"),
        ([storage_class("a", True, allowVolumeExpansion=False)], Status.WARNING, "a: its disks cannot grow"),
        ([storage_class("a", True, volumeBindingMode="Immediate")], Status.WARNING, "a: a disk is made before its pod"),
    ],
)
async def test_default_storage_class(
    examine: Examine, api: ScriptedApi, listed: list[dict[str, Any]], expected: Status, words: str
) -> None:
    api.cluster.objects["storageclasses"] = listed
    result = only(await examine(), "storage class", DEFAULT)
    assert result.status is expected
    assert words in result.message
    assert result.remedy


@pytest.mark.slow
async def test_ingress_class(examine: Examine, api: ScriptedApi) -> None:
    annotations = {"ingressclass.kubernetes.io/is-default-class": "true"}
    api.cluster.objects["ingressclasses"] = [{"metadata": {"name": "traefik", "annotations": annotations}}]
    missing = only(await examine(), "ingress class", "nginx")
    assert (missing.status, missing.message) == (Status.FAILURE, "does not exist; there are: traefik")
    assert only(await examine(ingress_class="traefik"), "ingress class", "traefik").status is Status.OK
    assert only(await examine(ingress_class=""), "ingress class", DEFAULT).message == "traefik is there"
    api.cluster.objects["ingressclasses"] = []
    assert only(await examine(ingress_class=""), "ingress class", DEFAULT).status is Status.FAILURE


# --- what a namespace has and demands


@pytest.mark.parametrize(
    ("labels", "expected"),
    [({}, Status.WARNING), ({"enforce": "privileged"}, Status.WARNING)]
    + [({"enforce": level}, Status.OK) for level in ("baseline", "restricted")],
)
async def test_level_of_pod_security(
    examine: Examine, api: ScriptedApi, labels: dict[str, str], expected: Status
) -> None:
    api.namespace_rights = True
    api.cluster.labels = {f"pod-security.kubernetes.io/{name}": level for name, level in labels.items()}
    assert only(await examine(), "pod security", "a-ns").status is expected


async def test_level_of_pod_security_that_cannot_be_seen_is_not_checked(examine: Examine) -> None:
    result = only(await examine(), "pod security", "a-ns")
    assert (result.status, result.remedy) == (Status.NOT_CHECKED, "see `kubectl get namespace a-ns --show-labels`")


@pytest.mark.slow
async def test_pod_is_tried_with_the_right_to_create_pods_alone(examine: Examine, api: ScriptedApi) -> None:
    assert only(await examine(), "pod", "a-ns").status is Status.NOT_CHECKED
    assert not [path for method, path in api.calls if method == "TRIAL" and path.endswith("/pods")]
    api.cluster.denied = set()
    assert only(await examine(), "pod", "a-ns").status is Status.OK

    async def refuse(_: web.Request) -> web.StreamResponse:
        return status(403, 'pods "doctor" is forbidden: exceeded quota: small')

    api.once(lambda request: request.path.endswith("/pods"), refuse)
    result = only(await examine(), "pod", "a-ns")
    assert result.status is Status.FAILURE
    assert "exceeded quota: small" in result.message
    assert result.remedy


@pytest.mark.slow
async def test_secret_that_the_settings_name_and_that_is_missing_is_a_failure(
    examine: Examine, api: ScriptedApi
) -> None:
    api.put("/api/v1/namespaces/a-ns/secrets".strip("/"), {"metadata": {"name": "wildcard"}, "data": {}})
    found = await examine(tls_secret="wildcard", pull_secrets="registry")
    assert only(found, "secrets", "a-ns").message == "there is no Secret registry"
    assert only(await examine(tls_secret="wildcard"), "secrets", "a-ns").message == "wildcard: there"
    api.role = False
    assert only(await examine(tls_secret="wildcard"), "secrets", "a-ns").status is Status.NOT_CHECKED
