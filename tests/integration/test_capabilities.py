"""GetCapabilities through a real gRPC client, on real SQLite and real PostgreSQL: what it says is what is enforced."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from sandbox.v1 import access_pb2
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server import VERSION
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.tenant import Tenant
from sandbox_server.rpc import capabilities
from sandbox_server.rpc.auth import Anyone, TokenFile

from tests.support import served as serving
from tests.support.served import Served
from tests.support.waiting import PATIENCE


@pytest.fixture
async def served(database_url: str, tmp_path: Path) -> AsyncIterator[Served]:
    async with serving.served(database_url, tmp_path) as service:
        yield service


async def found(served: Served) -> Any:
    return await served.stub.GetCapabilities(pb.GetCapabilitiesRequest(), timeout=20 * PATIENCE)


def parts(answer: Any) -> dict[str, tuple[bool, str]]:
    return {pb.PartName.Name(one.name).removeprefix("PART_NAME_"): (one.available, one.message) for one in answer.parts}


async def test_caller_learns_the_service_and_who_it_is(served: Served) -> None:
    served.tenant("mine", "second", "default")
    answer = await found(served)
    assert (answer.version, answer.engine) == (VERSION, "local")
    assert (answer.tenant, list(answer.namespaces), answer.default_namespace) == (
        "mine",
        ["second", "default"],
        "second",
    )


async def test_every_limit_is_set(served: Served) -> None:
    limits = (await found(served)).limits
    assert [field.name for field, _ in limits.ListFields()] == [one.name for one in pb.Limits.DESCRIPTOR.fields]
    assert limits.heartbeat_seconds == Pace().heartbeat
    assert limits.history_seconds == 7 * 86400


async def test_one_more_than_a_limit_is_refused(served: Served) -> None:
    limits = (await found(served)).limits
    selector = "a" + "=" + "b" * 63
    requirements = ",".join(["a"] * limits.selector_requirements)
    at_limit = [
        pb.ListSandboxesRequest(page_size=limits.page_size),
        pb.ListEventsRequest(page_size=limits.page_size),
        pb.ListSandboxesRequest(label_selector=requirements),
        pb.ListSandboxesRequest(label_selector=selector.ljust(limits.selector_characters)),
    ]
    beyond = [
        pb.ListSandboxesRequest(page_size=limits.page_size + 1),
        pb.ListEventsRequest(page_size=limits.page_size + 1),
        pb.ListSandboxesRequest(label_selector=requirements + ",a"),
        pb.ListSandboxesRequest(label_selector=selector.ljust(limits.selector_characters + 1)),
        pb.BatchStopRequest(sandbox_ids=[f"s{one}" for one in range(limits.batch_sandboxes + 1)]),
        pb.CreateSandboxRequest(
            spec=pb.SandboxSpec(project="demo"), env={f"A{one}": "" for one in range(limits.env_variables + 1)}
        ),
    ]
    for request in at_limit:
        await call(served, request)
    for request in beyond:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(served, request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    large = pb.ListSandboxesRequest(project="a" * limits.request_bytes)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(served, large)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def call(served: Served, request: Any) -> Any:
    return await getattr(served.stub, type(request).__name__.removesuffix("Request"))(request, timeout=20 * PATIENCE)


@pytest.mark.slow
async def test_the_size_of_a_page_without_one_is_the_default(served: Served) -> None:
    default = (await found(served)).limits.page_size_default
    await served.create("a")
    for number in range(default):
        await served.stub.UpdateEnvVars(
            pb.UpdateEnvVarsRequest(sandbox_id="a", set={"A": str(number)}), timeout=20 * PATIENCE
        )
    assert len((await call(served, pb.ListEventsRequest())).events) == default


async def test_parts_that_do_not_work_say_why(served: Served) -> None:
    async with asyncio.timeout(30 * PATIENCE):
        # A replica knows nothing of its namespaces until it has taken its share.
        while not (known := parts(await found(served)))["NAMESPACES"][0]:
            await asyncio.sleep(0.02)
    assert known["TLS"] == (False, "the service was started without tls-cert and tls-key")
    assert known["TOKENS"] == (False, "the service was started without a token-file")
    assert known["REFLECTION"] == (True, "")
    assert known["NAMESPACES"] == (True, "")
    assert known["ACCESS"] == (True, "")


async def test_access_has_what_the_contract_has_and_its_limits(served: Served) -> None:
    access = (await found(served)).access
    methods = access_pb2.DESCRIPTOR.services_by_name["SandboxAccess"].methods_by_name
    named = {
        "exec": "StartExec",
        "files": "ReadFile",
        "logs": "StreamLogs",
        "ports": "ForwardPort",
        "terminal": "ResizeExec",
    }
    assert {name: getattr(access, name) for name in named} == {name: one in methods for name, one in named.items()}
    limits = [one.name for one in pb.Access.DESCRIPTOR.fields if one.name not in named]
    assert all(getattr(access, name) > 0 for name in limits)


@pytest.mark.parametrize(
    ("readable", "message"),
    [
        ({"a": True, "b": True}, ""),
        ({"a": True, "b": False}, "the service lacks the right to get b (deploy/namespaces.yaml)"),
        ({"a": None, "b": True}, "the service cannot look now at a"),
        ({"a": None, "b": False}, "the service lacks the right to get b (deploy/namespaces.yaml)"),
    ],
)
def test_namespaces_that_cannot_be_looked_at_are_named(readable: dict[str, bool | None], message: str) -> None:
    deployment = capabilities.Deployment(
        "kubernetes", timedelta(days=1), tls=True, tokens=True, reflection=False, execs_per_tenant=7
    )
    missing = {"a": "", "b": "no snapshots here"}
    fields = capabilities.answer(Tenant("mine", ("a", "b")), deployment, Pace(), readable, readable, missing)
    known = parts(pb.GetCapabilitiesResponse(**fields))
    assert known["NAMESPACES"] == (not message, message)
    wording = ("right to get b (deploy/namespaces.yaml)", "right to work in the pods of b (deploy/access.yaml)")
    assert known["ACCESS"] == (not message, message.replace(*wording))
    assert known["SNAPSHOTS"] == (False, "no snapshots here")
    assert [known[one][0] for one in ("TLS", "TOKENS", "REFLECTION")] == [True, True, False]
    assert fields["access"]["tenant_exec_calls"] == deployment.execs_per_tenant


def test_only_a_token_file_needs_a_token() -> None:
    assert TokenFile.needs_token
    assert not Anyone.needs_token
