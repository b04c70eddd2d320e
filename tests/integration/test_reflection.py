"""Reflection: for callers that may call, unless it is turned off."""

import contextlib
import json
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from sandbox_server.domain.pace import Pace
from sandbox_server.rpc import auth

from tests.support.bare import served

TOKEN = "token-of-tenant-a"


async def reflected(
    channel: grpc.aio.Channel, token: str = "", symbol: str = "sandbox.v1.SandboxService"
) -> grpc.StatusCode:
    """Returns the status of a call that asks for the file of the contract."""
    ask = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
    metadata = [("authorization", f"Bearer {token}")] if token else None
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([ask]), metadata=metadata)
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for answer in call:
            assert answer.file_descriptor_response.file_descriptor_proto
    return await call.code()


async def test_reflection_needs_a_token_where_calls_do_and_health_needs_none(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps({"tenants": [{"name": "a", "namespaces": ["team-a"], "tokens": [TOKEN]}]}))
    async with served(auth.TokenFile(file, Pace())) as (_, channel):
        assert await reflected(channel, TOKEN) is grpc.StatusCode.OK
        for wrong in ("", "another-token-than-his"):
            assert await reflected(channel, wrong) is grpc.StatusCode.UNAUTHENTICATED
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("symbol", ["sandbox.v1.SandboxService.Stop", "sandbox.v1.StopRequest", "sandbox.v1.Phase"])
async def test_reflection_finds_the_contract_by_methods_and_types(symbol: str) -> None:
    async with served() as (_, channel):
        assert await reflected(channel, symbol=symbol) is grpc.StatusCode.OK


async def test_reflection_says_which_symbol_it_does_not_know() -> None:
    async with served() as (_, channel):
        ask = reflection_pb2.ServerReflectionRequest(file_containing_symbol="sandbox.v1.SandboxService.Nothing")
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([ask]))
        (answer,) = [answer async for answer in call]
        assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_reflection_can_be_turned_off() -> None:
    async with served(reflects=False) as (_, channel):
        assert await reflected(channel) is grpc.StatusCode.UNIMPLEMENTED
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
