"""Operators adopt by calls of AdoptionService, and nobody else."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from sandbox.v1 import adoption_pb2 as pb
from sandbox.v1 import adoption_pb2_grpc
from sandbox_client import AsyncClient

from tests.support import former_objects as former
from tests.support.former_objects import NAME
from tests.support.scripted import PODS, until, writes
from tests.support.scripted_api import ScriptedApi
from tests.support.service import Service

TOKENS = {"tenant": "token-of-the-tenant", "reads": "token-that-only-reads", "writes": "token-that-may-write"}
WITHIN = 30.0


@pytest.fixture
async def service(api: ScriptedApi, make_service: Callable[..., Service], tmp_path: Path) -> Service:
    operators = [{"name": one, "access": access, "tokens": [TOKENS[f"{access}s"]]} for one, access in OPERATORS]
    tenants = [{"name": "alice", "namespaces": ["default"], "tokens": [TOKENS["tenant"]]}]
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({"tenants": tenants, "operators": operators}))
    flags = ("--engine", "kubernetes", "--kubeconfig", str(api.kubeconfig(tmp_path)), "--token-file", str(tokens))
    started = make_service(*flags)
    await asyncio.to_thread(started.start, wait=False)
    async with AsyncClient(started.address, token=TOKENS["tenant"], timeout=WITHIN, contact_timeout=WITHIN) as client:
        await client.page()
    return started


OPERATORS = (("olga", "read"), ("otto", "write"))


class Caller:
    """A client of the service with one of the tokens."""

    def __init__(self, service: Service) -> None:
        self._channel = grpc.aio.insecure_channel(service.address)
        self._stub: Any = adoption_pb2_grpc.AdoptionServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def adopt(self, token: str = "writes", **fields: Any) -> Any:
        request = pb.AdoptSandboxesRequest(**{"namespace": "default", **fields})
        return await self._stub.AdoptSandboxes(request, metadata=metadata(token), timeout=WITHIN)

    async def give_back(self, **fields: Any) -> Any:
        request = pb.GiveBackSandboxesRequest(**{"namespace": "default", **fields})
        return await self._stub.GiveBackSandboxes(request, metadata=metadata("writes"), timeout=WITHIN)

    async def refused(self, token: str = "writes", **fields: Any) -> tuple[grpc.StatusCode, str]:
        """The code and the reason of a call that fails."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.adopt(token, **fields)
        status = rpc_status.from_call(caught.value)
        info = error_details_pb2.ErrorInfo()
        assert status is not None
        assert status.details[0].Unpack(info)
        return caught.value.code(), info.reason


def metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {TOKENS[token]}"),)


@pytest.fixture
async def caller(service: Service) -> AsyncIterator[Caller]:
    made = Caller(service)
    yield made
    await made.close()


@pytest.mark.slow
async def test_an_operator_adopts_and_gives_back(api: ScriptedApi, service: Service, caller: Caller) -> None:
    former.put(api, [*former.objects(), *former.objects("deployment.yaml")])
    await until(lambda: f"{NAME}-0" in api.objects.get(PODS, {}))
    dry = await caller.adopt(dry_run=True)
    assert [one.outcome for one in dry.results] == [pb.ADOPTION_OUTCOME_ADOPTED, pb.ADOPTION_OUTCOME_SKIPPED]
    assert writes(api) == []
    done = await caller.adopt()
    assert done == dry
    async with AsyncClient(service.address, token=TOKENS["tenant"], timeout=WITHIN) as client:
        await client.wait_until(NAME, "RUNNING", timeout=WITHIN)
        chosen = f"cloud.sealos.io/app-deploy-manager={NAME}"
        (again,) = (await caller.adopt(restart=pb.ADOPTION_RESTART_NOW, selector=chosen)).results
        assert again.outcome == pb.ADOPTION_OUTCOME_UNCHANGED
        (back,) = (await caller.give_back()).results
        assert back.outcome == pb.ADOPTION_OUTCOME_GIVEN_BACK
        await client.wait_until(NAME, "TERMINATED", timeout=WITHIN)
    assert len(api.starts) == 1


@pytest.mark.slow
async def test_nobody_else_adopts_and_every_bad_field_is_named(caller: Caller, api: ScriptedApi) -> None:
    denied, invalid = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT
    assert await caller.refused("tenant") == (denied, "OPERATORS_ONLY")
    assert await caller.refused("reads", request_id="123e4567-e89b-12d3-a456-426614174000") == (
        denied,
        "OPERATOR_READS_ONLY",
    )
    for fields in ({"namespace": ""}, {"namespace": "Not One"}, {"project": "Not One"}, {"request_id": "none"}):
        assert await caller.refused(**fields) == (invalid, "INVALID_FIELDS")
    assert await caller.refused(namespace="others") == (grpc.StatusCode.NOT_FOUND, "NAMESPACE_UNKNOWN")
    api.role = False
    assert await caller.refused() == (grpc.StatusCode.FAILED_PRECONDITION, "ADOPTION_REFUSED")
