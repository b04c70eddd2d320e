"""The service config of the contract in gRPC itself, as a caller without the Python client uses it, and in the client."""

import json
import uuid
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import sandbox_pb2_grpc
from sandbox_client import Client, policy

from tests.support import relay
from tests.support.service import Service
from tests.support.specs import SLEEP

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
    (service,) = pb.DESCRIPTOR.services_by_name.values()
    for entry in entries:
        for name in entry["name"]:
            assert name["service"] == service.full_name
            assert name.get("method", "WatchStatus") in service.methods_by_name
        assert entry["retryPolicy"] == entries[0]["retryPolicy"]
    assert policy.CALLS.codes == {grpc.StatusCode.UNAVAILABLE}


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


def test_the_client_outlives_a_restart_of_the_service(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    with Client(service.address) as client, futures.ThreadPoolExecutor() as pool:
        made = client.create("restarted", spec=SLEEP)
        service.kill()
        stopping = pool.submit(client.stop, made.sandbox_id)
        service.start()
        assert stopping.result().desired_state == pb.DESIRED_STATE_STOPPED


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
