"""The service config of the contract in gRPC itself, as a caller without the Python client uses it, and in the client."""

import asyncio
import contextlib
import functools
import json
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from sandbox.v1 import access_pb2, adoption_pb2, sandbox_pb2_grpc, schedule_pb2, snapshot_pb2
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient, Client, errors, policy

from tests.support import relay
from tests.support.service import Service
from tests.support.specs import SLEEP
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
Stub = Callable[[str], Any]


@pytest.fixture
def stub() -> Iterator[Stub]:
    """Makes plain stubs whose channel has the service config."""
    channels: list[grpc.Channel] = []

    def make(address: str) -> Any:
        channel = grpc.insecure_channel(address, [("grpc.service_config", policy.SERVICE_CONFIG)])
        channels.append(channel)
        return sandbox_pb2_grpc.SandboxServiceStub(channel)

    yield make
    for channel in channels:
        channel.close()


def test_the_client_has_the_very_service_config_of_the_contract() -> None:
    assert (ROOT / "protos" / "service_config.json").read_text() == policy.SERVICE_CONFIG


def test_every_entry_of_the_service_config_names_methods_of_the_contract_and_has_the_same_retries() -> None:
    entries = json.loads(policy.SERVICE_CONFIG)["methodConfig"]
    files = [one.DESCRIPTOR for one in (pb, access_pb2, snapshot_pb2, schedule_pb2, adoption_pb2)]
    services = {one.full_name: one for file in files for one in file.services_by_name.values()}
    assert [name["service"] for name in entries[0]["name"]] == [*services]
    for entry in entries:
        for name in entry["name"]:
            assert "method" not in name or name["method"] in services[name["service"]].methods_by_name
        assert entry["retryPolicy"] == entries[0]["retryPolicy"]


def test_streams_alone_have_no_time_limit() -> None:
    limited, unlimited = json.loads(policy.SERVICE_CONFIG)["methodConfig"]
    assert "timeout" in limited
    assert "timeout" not in unlimited
    files = [one.DESCRIPTOR for one in (pb, access_pb2, snapshot_pb2, schedule_pb2, adoption_pb2)]
    services = [one for file in files for one in file.services_by_name.values()]
    methods = [one for service in services for one in service.methods]
    streams = [one for one in methods if one.client_streaming or one.server_streaming]
    assert [(one["service"], one["method"]) for one in unlimited["name"]] == [
        (one.containing_service.full_name, one.name) for one in streams
    ]
    assert policy.CALLS.codes == {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


@pytest.mark.slow
def test_calls_of_plain_stubs_outlive_a_restart_of_the_service(
    make_service: Callable[..., Service], stub: Stub
) -> None:
    service = make_service().start()
    sandboxes = stub(service.address)
    made = sandboxes.CreateSandbox(
        pb.CreateSandboxRequest(request_id=str(uuid.uuid4()), spec=named("restarted"))
    ).sandbox
    service.kill()
    with pytest.raises(grpc.RpcError) as without, grpc.insecure_channel(service.address) as channel:
        sandbox_pb2_grpc.SandboxServiceStub(channel).GetStatus(pb.GetStatusRequest(sandbox_id=made.sandbox_id))
    assert without.value.code() is grpc.StatusCode.UNAVAILABLE
    with futures.ThreadPoolExecutor() as pool:
        request = pb.StopRequest(request_id=str(uuid.uuid4()), sandbox_id=made.sandbox_id)
        stopping = pool.submit(sandboxes.Stop, request)
        reading = pool.submit(sandboxes.GetStatus, pb.GetStatusRequest(sandbox_id=made.sandbox_id))
        service.start()
        assert stopping.result().sandbox.desired_state == pb.DESIRED_STATE_STOPPED
        assert reading.result().status.uid == made.uid


@pytest.mark.slow
async def test_no_call_fails_while_the_service_is_restarted_under_a_burst_of_calls(
    make_service: Callable[..., Service],
) -> None:
    # gRPC cancels the calls that have arrived at a service that stops and were not taken yet.
    service = make_service().start()
    with service.client() as client:
        sandbox_id = client.create("restarted", spec=SLEEP).sandbox_id
    options = [("grpc.service_config", policy.SERVICE_CONFIG), ("grpc.use_local_subchannel_pool", 1)]
    answers = 0
    failures: list[str] = []
    ended = asyncio.Event()

    async def ask(call: Callable[[], Awaitable[Any]]) -> None:
        nonlocal answers
        while not ended.is_set():
            try:
                await call()
                answers += 1
            except (grpc.aio.AioRpcError, errors.ServiceError) as error:
                failures.append(repr(error))
                return

    async with contextlib.AsyncExitStack() as opened:
        calls: list[Callable[[], Awaitable[Any]]] = []
        for _ in range(10):
            channel = await opened.enter_async_context(grpc.aio.insecure_channel(service.address, options))
            plain = sandbox_pb2_grpc.SandboxServiceStub(channel).GetStatus
            calls += [functools.partial(plain, pb.GetStatusRequest(sandbox_id=sandbox_id))] * 20
        ours = await opened.enter_async_context(AsyncClient(service.address))
        calls += [functools.partial(ours.status, sandbox_id)] * 20
        asking = [asyncio.create_task(ask(one)) for one in calls]
        await asyncio.sleep(1)
        await asyncio.to_thread(service.terminate)
        before = answers
        await asyncio.to_thread(service.start)
        # The longer the service was down, the longer gRPC waits before it connects again.
        async with asyncio.timeout(30 * PATIENCE):
            while answers < before + len(calls):
                await asyncio.sleep(0.01)
        ended.set()
        await asyncio.gather(*asking)
    assert failures == []


@pytest.mark.slow
def test_the_client_outlives_a_restart_of_the_service(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    with Client(service.address) as client, futures.ThreadPoolExecutor() as pool:
        made = client.create("restarted", spec=SLEEP)
        service.kill()
        stopping = pool.submit(client.stop, made.sandbox_id)
        service.start()
        assert stopping.result().desired_state == pb.DESIRED_STATE_STOPPED


@pytest.mark.slow
def test_a_create_of_plain_stubs_whose_answer_was_lost_makes_one_sandbox(
    service: Service, stub: Stub, client: Client
) -> None:
    request = pb.CreateSandboxRequest(request_id=str(uuid.uuid4()), spec=named("lost-once"))
    with relay.to(service.port) as between:
        sandboxes = stub(between.address)
        sandboxes.ListSandboxes(pb.ListSandboxesRequest())
        between.lose_answer_to(request.request_id.encode())
        made = sandboxes.CreateSandbox(request).sandbox
        assert between.connections == 2
    assert [one.uid for one in client.list(project="lost-once")] == [made.uid]
    client.delete(made.sandbox_id)


def named(project: str) -> pb.SandboxSpec:
    spec = pb.SandboxSpec()
    spec.CopyFrom(SLEEP)
    spec.project = project
    return spec
