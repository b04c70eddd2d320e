"""Calls whose message does not come: counted, bounded and ended, with a token or without."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server.domain.pace import Pace
from sandbox_server.rpc import auth, public, receive, server

from tests.support.bare import served
from tests.support.waiting import PATIENCE

METHODS = [one.name for one in pb.DESCRIPTOR.services_by_name["SandboxService"].methods]


async def until(holds: Callable[[], bool], within: float = 20) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(within * PATIENCE):
        while not holds():
            await asyncio.sleep(0.02)


SILENT = [f"/sandbox.v1.SandboxService/{method}" for method in METHODS]
SILENT += ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"]
SILENT += ["/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"]


@pytest.mark.fault(73)
@pytest.mark.find(35)
@pytest.mark.slow
async def test_calls_whose_message_never_comes_are_counted_and_ended() -> None:
    async with served(within=PATIENCE) as (serving, channel):
        # As a stream, so that the call begins without a message.
        calls = [channel.stream_stream(path)() for path in SILENT for _ in range(50)]
        # On a busy machine the first have ended before the last have begun.
        await until(lambda: serving.calls.open.total() + serving.calls.ended.total() == len(calls))
        codes = await asyncio.wait_for(asyncio.gather(*(one.code() for one in calls)), 20 * PATIENCE)
        assert set(codes) == {grpc.StatusCode.DEADLINE_EXCEEDED}
        assert not +serving.calls.open
        assert {one[1:] for one in serving.calls.ended} == {("DEADLINE_EXCEEDED", "REQUEST_NOT_RECEIVED")}
        assert serving.calls.ended.total() == len(calls)


@pytest.mark.fault(73)
@pytest.mark.find(35)
async def test_reflection_ends_in_order_if_no_further_request_comes() -> None:
    async with served(within=PATIENCE) as (serving, channel):
        call = channel.stream_stream(SILENT[-1])()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString())
        answer = reflection_pb2.ServerReflectionResponse.FromString(await call.read())
        assert [one.name for one in answer.list_services_response.service] == [
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
            "sandbox.v1.SandboxService",
        ]
        assert await asyncio.wait_for(call.code(), 30 * PATIENCE) is grpc.StatusCode.OK
        assert serving.calls.ended == {("ServerReflectionInfo", "OK", ""): 1}


@pytest.mark.fault(73)
@pytest.mark.find(35)
async def test_shutdown_ends_calls_whose_message_has_not_come() -> None:
    async with served(within=60) as (serving, channel):
        calls = [channel.stream_stream(path)() for path in SILENT]
        await until(lambda: serving.calls.open.total() == len(calls))
        # Well within its grace.
        await asyncio.wait_for(serving.stop(1000), 20 * PATIENCE)
        codes = await asyncio.wait_for(asyncio.gather(*(one.code() for one in calls)), 10 * PATIENCE)
        assert set(codes) == {grpc.StatusCode.UNAVAILABLE}
        assert {one[2] for one in serving.calls.ended} == {"SHUTTING_DOWN"}


@pytest.mark.fault(73)
@pytest.mark.find(35)
async def test_call_without_a_message_needs_a_token(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    tenant = {"name": "a", "namespaces": ["team-a"], "tokens": ["token-of-tenant-a"]}
    file.write_text(json.dumps({"tenants": [tenant]}))
    async with served(auth.TokenFile(file, Pace())) as (_, channel):
        silent = channel.stream_stream("/sandbox.v1.SandboxService/WatchStatus")()
        assert await asyncio.wait_for(silent.code(), 30 * PATIENCE) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.fault(73)
@pytest.mark.find(35)
@pytest.mark.slow
async def test_one_connection_carries_a_bounded_number_of_calls() -> None:
    most = int(dict(server.OPTIONS)["grpc.max_concurrent_streams"])
    async with served(within=60) as (serving, channel):
        calls = [channel.stream_stream("/grpc.health.v1.Health/Check")() for _ in range(most + 100)]
        await until(lambda: serving.calls.open.total() >= most)
        # Those beyond the bound wait in the client for the end of others.
        await asyncio.sleep(0.2)
        assert serving.calls.open.total() == most
        await serving.stop(30)
        codes = await asyncio.wait_for(asyncio.gather(*(one.code() for one in calls)), 10 * PATIENCE)
    # Of those that arrive while it stops, gRPC cancels the ones that were not taken yet.
    assert set(codes) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


@pytest.mark.fault(73)
@pytest.mark.find(35)
async def test_watcher_of_the_health_that_does_not_read_delays_no_other() -> None:
    class Watcher:
        """A caller's side of Health.Watch."""

        def __init__(self, reads: bool) -> None:
            self.received: list[int] = []
            self._reads = reads

        async def read(self) -> bytes:
            return b""

        async def write(self, message: bytes) -> None:
            if not self._reads:
                await asyncio.Event().wait()
            self.received.append(health_pb2.HealthCheckResponse.FromString(message).status)

    health = public.Health(receive.Inbox(10), ())
    stuck: Any = Watcher(False)
    reader: Any = Watcher(True)
    async with asyncio.TaskGroup() as tasks:
        watches = [tasks.create_task(health.watch(one)) for one in (stuck, reader)]
        for told, ready in enumerate((True, False), 1):
            await until(lambda told=told: len(reader.received) == told)  # type: ignore[misc]
            health.serving(ready)
        await until(lambda: len(reader.received) == 3)
        for one in watches:
            one.cancel()
    answer = health_pb2.HealthCheckResponse
    assert reader.received == [answer.NOT_SERVING, answer.SERVING, answer.NOT_SERVING]
