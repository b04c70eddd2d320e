"""Reflection: for callers that may call, unless it is turned off."""

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


def metadata(token: str) -> list[tuple[str, str]] | None:
    return [("authorization", f"Bearer {token}")] if token else None


async def reflected(channel: grpc.aio.Channel, token: str = "", symbol: str = "sandbox.v1.SandboxService") -> None:
    """Asks for the file of the contract, and expects it."""
    ask = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    (answer,) = [one async for one in stub.ServerReflectionInfo(iter([ask]), metadata=metadata(token))]
    assert answer.file_descriptor_response.file_descriptor_proto


async def refused(channel: grpc.aio.Channel, token: str = "") -> grpc.StatusCode:
    """Returns the status with which the server ends a call that sends nothing.

    With a message, grpc.aio may say INTERNAL in place of the status that came during the write (grpc/grpc#36066).
    """
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    return await stub.ServerReflectionInfo(metadata=metadata(token)).code()


async def test_reflection_needs_a_token_where_calls_do_and_health_needs_none(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps({"tenants": [{"name": "a", "namespaces": ["team-a"], "tokens": [TOKEN]}]}))
    async with served(auth.TokenFile(file, Pace())) as (_, channel):
        await reflected(channel, TOKEN)
        for wrong in ("", "another-token-than-his"):
            assert await refused(channel, wrong) is grpc.StatusCode.UNAUTHENTICATED
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("symbol", ["sandbox.v1.SandboxService.Stop", "sandbox.v1.StopRequest", "sandbox.v1.Phase"])
async def test_reflection_finds_the_contract_by_methods_and_types(symbol: str) -> None:
    async with served() as (_, channel):
        await reflected(channel, symbol=symbol)


async def test_reflection_says_which_symbol_it_does_not_know() -> None:
    async with served() as (_, channel):
        ask = reflection_pb2.ServerReflectionRequest(file_containing_symbol="sandbox.v1.SandboxService.Nothing")
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([ask]))
        (answer,) = [answer async for answer in call]
        assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_reflection_can_be_turned_off() -> None:
    async with served(reflects=False) as (_, channel):
        assert await refused(channel) is grpc.StatusCode.UNIMPLEMENTED
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
