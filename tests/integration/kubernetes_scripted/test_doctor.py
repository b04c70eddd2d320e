"""`sandbox-server doctor` against a scripted API server."""

import asyncio
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


@pytest.mark.parametrize(("kind", "verb"), [(kind, verb) for kind, verbs in rights.ROLE.items() for verb in verbs])
async def test_each_verb_that_is_missing_is_named(examine: Examine, api: ScriptedApi, kind: Any, verb: str) -> None:
    name = f"{kind.plural}.{kind.group}" if kind.group else kind.plural
    api.cluster.denied = {(name, verb)}
    result = only(await examine(), "rights", "a-ns")
    assert (result.status, result.message) == (Status.FAILURE, f"the service may not {verb} {name}")
    assert result.remedy == "kubectl apply -n a-ns -f deploy/role.yaml"


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
    assert result.remedy.endswith("--role=sandbox-service --serviceaccount=sandbox-system:sandbox-service")


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
    assert missing.remedy.startswith("kubectl create namespace a-ns")
    api.namespace = "Terminating"
    assert "is being terminated" in only(await examine(), "namespace", "a-ns").message


async def test_namespace_that_cannot_be_seen_is_not_checked(examine: Examine, api: ScriptedApi) -> None:
    api.role = False
    result = only(await examine(), "namespace", "a-ns")
    assert (result.status, result.remedy) == (Status.NOT_CHECKED, "kubectl get namespace a-ns")


async def test_pod_patch_that_applies_to_no_sandbox_is_a_failure(examine: Examine) -> None:
    found = await examine(pod_patch='[{"op": "remove", "path": "/spec/nothing"}]')
    (result,) = not_well({("pod-patch", ""): found["pod-patch", ""]})
    assert result.status is Status.FAILURE
