"""The service as its callers meet it: a process, real gRPC, the local engine."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import sqlite3
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from prometheus_client.parser import text_string_to_metric_families
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import sandbox_pb2_grpc
from sandbox_client import Client, Kind, ServiceError, errors

from tests.support import samples
from tests.support.ports import free_port
from tests.support.service import Service
from tests.support.waiting import PATIENCE, eventually

SLEEP = pb.SandboxSpec(command=["/bin/sleep", "1000"])


@pytest.fixture
def stub(service: Service) -> Iterator[sandbox_pb2_grpc.SandboxServiceStub]:
    with grpc.insecure_channel(service.address) as channel:
        yield sandbox_pb2_grpc.SandboxServiceStub(channel)


def running(client: Client, project: str = "demo", **options: object) -> pb.Sandbox:
    made = client.create(project, spec=SLEEP, **options)  # type: ignore[arg-type]
    client.wait_until(made.sandbox_id, "RUNNING", timeout=30 * PATIENCE)
    return client.get(made.sandbox_id)


@pytest.mark.slow
def test_a_sandbox_keeps_its_file_over_stop_start_and_env_update(client: Client) -> None:
    made = client.create("demo", env={"NAME": "one"})
    assert made.sandbox_id.startswith("demo-agentruntime-")
    assert made.stateful_set_name == made.sandbox_id
    assert made.service_name == f"{made.sandbox_id}-service"
    assert made.env_names == ["NAME"]
    status = client.wait_until(made.sandbox_id, "RUNNING", timeout=30 * PATIENCE)
    assert status.public_url.startswith("http://127.0.0.1:")
    stopped = client.stop(made.sandbox_id)
    client.wait_until(made.sandbox_id, "STOPPED", generation=stopped.status.generation, timeout=30 * PATIENCE)
    changed = client.update_env(made.sandbox_id, set={"OTHER": "2"}, unset=["NAME"])
    assert changed.env_names == ["OTHER"]
    started = client.start(made.sandbox_id)
    client.wait_until(made.sandbox_id, "RUNNING", generation=started.status.generation, timeout=30 * PATIENCE)
    client.delete(made.sandbox_id)
    client.wait_until(made.sandbox_id, "TERMINATED", timeout=30 * PATIENCE)
    assert client.delete(made.sandbox_id).status.phase == pb.PHASE_TERMINATED


def test_every_status_has_what_a_bill_is_made_of(client: Client) -> None:
    made = client.create("billed", spec=SLEEP, labels={"team": "red"}, resources={"cpu_request": "250m"}, storage="2Gi")
    client.stop(made)
    watched = {}
    for event in client.watch([made.sandbox_id], after_sequence=made.status.sequence - 1, timeout=30 * PATIENCE):
        if event.status is not None:
            watched[event.status.phase] = event.status
            if event.status.phase == pb.PHASE_STOPPED:
                break
    created, stopped = watched[pb.PHASE_CREATING], watched[pb.PHASE_STOPPED]
    for status in (client.status(made), client.get(made).status, created, stopped):
        assert (status.tenant, status.project, dict(status.labels)) == ("default", "billed", {"team": "red"})
        assert status.create_time == made.create_time
        assert status.resources == made.spec.resources
        assert status.resources.cpu_request == "250m"
        assert status.storage_size == "2Gi"
    assert created.desired_state == pb.DESIRED_STATE_RUNNING
    assert stopped.desired_state == pb.DESIRED_STATE_STOPPED


def test_mutations_answer_with_a_sequence_that_can_be_read(client: Client) -> None:
    made = client.create("demo", spec=SLEEP)
    seen = client.status(made.sandbox_id, min_sequence=made.status.sequence)
    assert seen.sequence >= made.status.sequence
    with pytest.raises(errors.TimedOut) as caught:
        client.status(made.sandbox_id, min_sequence=10**9, timeout=0.2)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.fault(7)
def test_a_request_id_takes_effect_once_and_belongs_to_one_payload(client: Client) -> None:
    request_id = str(uuid.uuid4())
    first = client.create("once", request_id=request_id, spec=SLEEP)
    again = client.create("once", request_id=request_id.upper(), spec=SLEEP)
    assert again.uid == first.uid
    assert len(list(client.list(project="once"))) == 1
    with pytest.raises(errors.InvalidArgument) as caught:
        client.create("once", request_id=request_id, spec=SLEEP, env={"A": "1"})
    assert caught.value.reason == "REQUEST_ID_REUSED"
    with pytest.raises(errors.InvalidArgument):
        client.stop(first.sandbox_id, request_id=request_id)
    client.stop(first.sandbox_id, request_id=(stop := str(uuid.uuid4())))
    client.start(first.sandbox_id)
    assert client.stop(first.sandbox_id, request_id=stop).desired_state == pb.DESIRED_STATE_RUNNING


def test_preconditions_say_what_to_do(client: Client) -> None:
    made = client.create("demo", sandbox_id="taken", spec=SLEEP)
    with pytest.raises(errors.AlreadyExists) as exists:
        client.create("demo", sandbox_id="taken", spec=SLEEP)
    assert exists.value.reason == "SANDBOX_EXISTS"
    with pytest.raises(errors.Aborted) as aborted:
        client.stop("taken", expected_generation=7)
    assert aborted.value.reason == "GENERATION_MISMATCH"
    assert client.stop("taken", expected_generation=1).status.generation == 2
    client.delete("taken")
    with pytest.raises(errors.FailedPrecondition) as deleted:
        client.start("taken")
    assert deleted.value.reason == "SANDBOX_DELETED"
    with pytest.raises(errors.NotFound):
        client.status("never-was")
    client.wait_until("taken", "TERMINATED", timeout=30 * PATIENCE)
    assert client.create("demo", sandbox_id="taken", spec=SLEEP).uid != made.uid


def test_bad_fields_are_all_named_and_nothing_is_written(client: Client) -> None:
    before = [one.uid for one in client.list()]
    spec = pb.SandboxSpec(
        image="a b",
        ports=[pb.Port(number=80), pb.Port(number=80)],
        storage=pb.Storage(size="500m"),
        labels={"cloud.sealos.io/x": "y"},
        resources=pb.Resources(cpu_limit="5Gi"),
        readiness=pb.Readiness(tcp_port=0),
    )
    with pytest.raises(errors.InvalidArgument) as caught:
        client.create("Bad", sandbox_id="x" * 53, env={"A B": samples.CANARY}, spec=spec, request_id="x")
    assert set(caught.value.fields) == {
        "request_id",
        "sandbox_id",
        "env[A B]",
        "spec.project",
        "spec.image",
        "spec.ports[1].number",
        "spec.storage.size",
        "spec.labels[cloud.sealos.io/x]",
        "spec.resources.cpu_limit",
        "spec.readiness.tcp_port",
    }
    assert samples.CANARY not in str(caught.value)
    assert [one.uid for one in client.list()] == before


def test_text_that_is_not_utf8_is_an_invalid_argument(service: Service) -> None:
    with grpc.insecure_channel(service.address) as channel:
        call = channel.unary_unary("/sandbox.v1.SandboxService/GetStatus")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\x0a\x02\xff\xfe", timeout=5 * PATIENCE)
    assert errors.from_rpc(caught.value).code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.slow
def test_lists_are_paged_filtered_and_ordered(client: Client) -> None:
    for number in range(7):
        spec = pb.SandboxSpec(command=["/bin/sleep", "1000"], labels={"parity": "even" if number % 2 == 0 else "odd"})
        client.create("paged", sandbox_id=f"paged-{number}", spec=spec)
    names = [f"paged-{number}" for number in range(7)]
    page = client.page(project="paged", page_size=3)
    assert [one.sandbox_id for one in page.sandboxes] == names[:3]
    client.delete("paged-3")
    client.wait_until("paged-3", "TERMINATED", timeout=30 * PATIENCE)
    rest = client.page(project="paged", page_size=10, page_token=page.next_page_token)
    assert [one.sandbox_id for one in rest.sandboxes] == names[4:]
    assert not rest.next_page_token
    odd = client.list(project="paged", label_selector="parity=odd")
    assert [one.sandbox_id for one in odd] == ["paged-1", "paged-5"]
    gone = client.list(project="paged", phases=["TERMINATED"])
    assert [one.sandbox_id for one in gone] == ["paged-3"]

    def views_agree() -> bool:
        basic, full = (next(iter(client.list(project="paged", basic=basic))) for basic in (True, False))
        assert full.spec.project == "paged" and not basic.HasField("spec")
        return basic.status == full.status

    # Its status may change between the two.
    eventually(views_agree)
    for bad in ({"page_size": -1}, {"page_size": 1001}, {"page_token": "?"}, {"label_selector": "a=b=c"}):
        with pytest.raises(errors.InvalidArgument):
            client.page(**bad)  # type: ignore[arg-type]
    for number in range(7):
        client.delete(f"paged-{number}")


@pytest.mark.find(30)
@pytest.mark.slow
def test_a_list_of_large_sandboxes_is_read_within_the_4_mib_of_a_client_as_it_is(
    client: Client, service: Service
) -> None:
    spec = pb.SandboxSpec(command=["/bin/sleep", "1000"], args=["x" * 32_768] * 8)
    names = [f"large-{number:02}" for number in range(17)]
    for name in names:
        client.create("large", sandbox_id=name, spec=spec)
        client.delete(name)
    for name in names:
        client.wait_until(name, "TERMINATED", timeout=60 * PATIENCE)

    def pages(**fields: Any) -> list[list[str]]:
        found = []
        request = pb.ListSandboxesRequest(project="large", page_size=100, phases=[pb.PHASE_TERMINATED], **fields)
        with grpc.insecure_channel(service.address) as channel:
            while not found or request.page_token:
                page = sandbox_pb2_grpc.SandboxServiceStub(channel).ListSandboxes(request, timeout=20 * PATIENCE)
                found.append([one.sandbox_id for one in page.sandboxes])
                request.page_token = page.next_page_token
        return found

    assert pages() == [names[:11], names[11:]]
    assert pages(view=pb.SANDBOX_VIEW_BASIC) == [names]
    assert [one.sandbox_id for one in client.list(project="large", phases=["TERMINATED"])] == names
    with pytest.raises(grpc.RpcError) as caught:
        pages(view=9)  # type: ignore[arg-type]
    assert errors.from_rpc(caught.value).reason == "INVALID_FIELDS"


def test_a_watch_has_a_snapshot_a_marker_and_then_every_change(client: Client) -> None:
    made = running(client, "watched")
    seen = []
    stopped = False
    for event in client.watch(project="watched", timeout=30 * PATIENCE):
        seen.append(event)
        if event.kind is Kind.SYNCED and not stopped:
            stopped = True
            client.stop(made.sandbox_id)
        if event.status is not None and event.status.phase == pb.PHASE_STOPPED:
            break
    assert [one.kind for one in seen[:2]] == [Kind.SNAPSHOT, Kind.SYNCED]
    assert all(one.kind is Kind.CHANGE for one in seen[2:])
    sequences = [one.sequence for one in seen[1:]]
    assert sequences == sorted(set(sequences))
    resumed = []
    for event in client.watch(project="watched", after_sequence=seen[1].sequence, timeout=30 * PATIENCE):
        resumed.append(event)
        if len(resumed) == len(seen) - 2:
            break
    assert [one.status for one in resumed] == [one.status for one in seen[2:]]


def test_a_watch_of_one_sandbox_ends_after_terminated(client: Client) -> None:
    made = running(client)
    client.delete(made.sandbox_id)
    phases = [event.status.phase for event in client.watch([made.sandbox_id], timeout=30 * PATIENCE) if event.status]
    assert phases[-1] == pb.PHASE_TERMINATED
    again = list(client.watch([made.sandbox_id], timeout=30 * PATIENCE))
    assert [one.kind for one in again] == [Kind.SNAPSHOT, Kind.SYNCED]
    last = client.status(made.sandbox_id).sequence
    assert list(client.watch([made.sandbox_id], after_sequence=last, timeout=30 * PATIENCE)) == []


def test_a_watch_refuses_what_it_cannot_do(stub: sandbox_pb2_grpc.SandboxServiceStub) -> None:
    def code(**request: object) -> errors.ServiceError:
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.WatchStatus(pb.WatchStatusRequest(**request), timeout=5 * PATIENCE))  # type: ignore[arg-type]
        return errors.from_rpc(caught.value)

    assert code(sandbox_ids=["never-was"]).reason == "SANDBOX_NOT_FOUND"
    assert code(after_sequence=10**9).reason == "SEQUENCE_AHEAD"
    assert code(after_sequence=-1).code is grpc.StatusCode.INVALID_ARGUMENT
    assert code(sandbox_ids=["a"] * 1001).code is grpc.StatusCode.INVALID_ARGUMENT
    assert code(label_selector="a=b=c").code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.slow
def test_heartbeats_come_while_nothing_happens(make_service: Callable[..., Service]) -> None:
    service = make_service("--heartbeat", "0.1").start()
    with grpc.insecure_channel(service.address) as channel:
        stream = sandbox_pb2_grpc.SandboxServiceStub(channel).WatchStatus(
            pb.WatchStatusRequest(), timeout=20 * PATIENCE
        )
        answers = [next(stream) for _ in range(4)]
        kinds = [one.WhichOneof("event") for one in answers]
        stream.cancel()
    assert answers[0].snapshot_complete.heartbeat_seconds == 0.1
    assert kinds == ["snapshot_complete", "heartbeat", "heartbeat", "heartbeat"]


def test_watch_that_resumes_is_told_at_once_that_it_was_accepted(
    client: Client, stub: sandbox_pb2_grpc.SandboxServiceStub
) -> None:
    running(client, "resumed")
    heartbeat = client.capabilities().limits.heartbeat_seconds
    sequence = client.page(page_size=1).sequence
    for _ in range(3):
        stream = stub.WatchStatus(
            pb.WatchStatusRequest(project="resumed", after_sequence=sequence), timeout=20 * PATIENCE
        )
        began = time.monotonic()
        stream.initial_metadata()
        first = next(stream)
        assert time.monotonic() - began < heartbeat == 15
        assert first.WhichOneof("event") == "heartbeat"
        assert first.sequence >= sequence
        sequence = first.sequence
        stream.cancel()


def facts(call: Callable[[], object]) -> dict[str, str]:
    """The metadata of the ErrorInfo, and the reason, of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status: Any = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return {"reason": info.reason, **info.metadata}


@pytest.mark.find(37)
@pytest.mark.slow
def test_client_that_pings_while_idle_keeps_its_connection(service: Service) -> None:
    pinging = (("grpc.keepalive_time_ms", 200), ("grpc.keepalive_permit_without_calls", 1))
    pinging += (("grpc.http2.max_pings_without_data", 0), ("grpc.use_local_subchannel_pool", 1))
    states: list[grpc.ChannelConnectivity] = []
    with grpc.insecure_channel(service.address, options=pinging) as channel:
        stub = sandbox_pb2_grpc.SandboxServiceStub(channel)
        stub.ListSandboxes(pb.ListSandboxesRequest(), timeout=5 * PATIENCE)
        channel.subscribe(states.append)
        time.sleep(4)
        stub.ListSandboxes(pb.ListSandboxesRequest(), timeout=5 * PATIENCE)
        channel.unsubscribe(states.append)
    assert set(states) == {grpc.ChannelConnectivity.READY}


@pytest.mark.find(39)
def test_errors_have_the_sandbox_and_its_generation_as_fields(stub: sandbox_pb2_grpc.SandboxServiceStub) -> None:
    named = {"sandbox_id": "named", "namespace": "default"}
    spec = pb.SandboxSpec(project="demo", command=SLEEP.command)
    create = pb.CreateSandboxRequest(sandbox_id="named", spec=spec)
    stub.CreateSandbox(create)
    assert facts(lambda: stub.CreateSandbox(create)) == named | {"reason": "SANDBOX_EXISTS"}
    stale = pb.StopRequest(sandbox_id="named", expected_generation=7)
    assert facts(lambda: stub.Stop(stale)) == named | {"reason": "GENERATION_MISMATCH", "generation": "1"}
    bad = pb.StopRequest(sandbox_id="named", request_id="no-uuid")
    assert facts(lambda: stub.Stop(bad)) == named | {"reason": "INVALID_FIELDS"}
    stub.Delete(pb.DeleteRequest(sandbox_id="named"))
    assert facts(lambda: stub.Start(pb.StartRequest(sandbox_id="named"))) == named | {"reason": "SANDBOX_DELETED"}
    missing = facts(lambda: stub.GetStatus(pb.GetStatusRequest(sandbox_id="never", namespace="elsewhere")))
    assert missing == {
        "reason": "SANDBOX_NOT_FOUND",
        "sandbox_id": "never",
        "sandbox_ids": "never",
        "namespace": "elsewhere",
    }
    assert facts(lambda: stub.GetStatus(pb.GetStatusRequest(sandbox_id="X" * 5000))).keys() == {"reason", "namespace"}


@pytest.mark.find(39)
@pytest.mark.parametrize("namespace", ["", "elsewhere"])
def test_a_watch_names_all_missing_ids(stub: sandbox_pb2_grpc.SandboxServiceStub, namespace: str) -> None:
    def missing(*ids: str) -> dict[str, str]:
        return facts(lambda: list(stub.WatchStatus(pb.WatchStatusRequest(sandbox_ids=ids, namespace=namespace))))

    spec = pb.SandboxSpec(project="demo", command=SLEEP.command)
    there = stub.CreateSandbox(pb.CreateSandboxRequest(spec=spec)).sandbox.sandbox_id
    found = missing("d", "a", "c", "b", "a", *([] if namespace else [there]))
    assert found["sandbox_ids"] == "a,b,c,d"
    assert found["sandbox_id"] == "a"
    assert found["namespace"] == (namespace or "default")
    many = missing(*("m" * 46 + f"-{number:04}" for number in range(900)))
    assert len(many["sandbox_ids"].split(",")) + int(many["sandboxes_left"]) == 900


@pytest.mark.find(39)
def test_a_snapshot_has_terminated_sandboxes_only_where_their_ids_are_given(
    client: Client, stub: sandbox_pb2_grpc.SandboxServiceStub
) -> None:
    ended = client.create("snapshots", spec=SLEEP).sandbox_id
    client.delete(ended)
    client.wait_until(ended, "TERMINATED", timeout=30 * PATIENCE)
    live = client.create("snapshots", spec=SLEEP).sandbox_id

    def snapshot(**selection: Any) -> list[str]:
        found: list[str] = []
        for answer in stub.WatchStatus(pb.WatchStatusRequest(**selection), timeout=10 * PATIENCE):
            if answer.HasField("snapshot_complete"):
                return found
            found.append(answer.status.sandbox_id)
        raise AssertionError("the stream ended before its snapshot")

    assert snapshot(project="snapshots") == [live]
    assert sorted(snapshot(sandbox_ids=[ended, live])) == sorted((ended, live))


def test_health_and_reflection_answer(service: Service) -> None:
    with grpc.insecure_channel(service.address) as channel:
        for name in ("", "sandbox.v1.SandboxService"):
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=name), timeout=5 * PATIENCE
            )
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        found = next(
            reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([ask]), timeout=5 * PATIENCE)
        )
        listed = {one.name for one in found.list_services_response.service}
    assert {"sandbox.v1.SandboxService", "grpc.health.v1.Health"} <= listed


@pytest.mark.fault(46)
def test_an_oversized_message_is_refused_and_others_are_served(client: Client) -> None:
    with pytest.raises(ServiceError) as caught:
        client.create("demo", env={f"K{n}": "x" * 30_000 for n in range(100)})
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    client.page()


@pytest.mark.fault(46)
def test_metadata_that_is_too_large_is_refused_and_others_are_served(stub: sandbox_pb2_grpc.SandboxServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ListSandboxes(pb.ListSandboxesRequest(), metadata=[("much", "x" * 40_000)], timeout=10 * PATIENCE)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    stub.ListSandboxes(pb.ListSandboxesRequest(), timeout=10 * PATIENCE)


@pytest.mark.slow
@pytest.mark.fault(43)
async def test_thousands_of_watches_that_come_at_once_are_all_served(service: Service) -> None:
    """gRPC's own limit is about a thousand new streams: what comes beyond that is cancelled."""
    count, one_connection = 4000, (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.aio.insecure_channel(service.address, one_connection) for _ in range(8)]
    stubs = [sandbox_pb2_grpc.SandboxServiceStub(one) for one in channels]  # type: ignore[no-untyped-call]

    async def begun(number: int) -> str:
        async for answer in stubs[number % len(stubs)].WatchStatus(
            pb.WatchStatusRequest(project="nobody"), timeout=60 * PATIENCE
        ):
            return str(answer.WhichOneof("event"))
        return "ended"

    found = await asyncio.gather(*(begun(number) for number in range(count)))
    for one in channels:
        await one.close()
    assert set(found) == {"snapshot_complete"}


@pytest.mark.slow
def test_exit_while_the_service_was_down_is_reported_with_its_code(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    with service.client() as client:
        spec = pb.SandboxSpec(command=["/bin/sh", "-c", "while sleep 0.05; do test -e die && rm die && exit 9; done"])
        made = client.create("demo", spec=spec)
        client.wait_until(made.sandbox_id, "RUNNING", timeout=20 * PATIENCE)
    (folder,) = service.sandboxes()
    service.kill()
    (folder / "volume" / "home" / "die").touch()
    eventually(lambda: "exit-code" in (folder / "main.exit").read_text())
    service.start()
    with service.client() as client:
        eventually(lambda: client.status(made.sandbox_id).last_exit.code == 9)
        client.wait_until(made.sandbox_id, "RUNNING", timeout=20 * PATIENCE)


@pytest.mark.fault(35)
@pytest.mark.slow
def test_crash_while_the_database_is_locked_is_reported_afterwards(service: Service) -> None:
    with service.client() as client:
        kept = running(client)
        (folder,) = (one for one in service.sandboxes() if one.name == kept.sandbox_id)
        pid = json.loads((folder / "main.process").read_text())["pid"]
        blocker = sqlite3.connect(service.folder / "data" / "sandbox.db", isolation_level=None)
        with contextlib.closing(blocker):
            blocker.execute("BEGIN IMMEDIATE")
            os.killpg(pid, signal.SIGKILL)
            eventually(lambda: "event=database_failed" in service.log.read_text(), within=30)
            assert client.status(kept.sandbox_id).restart_count == 0
        eventually(lambda: client.status(kept.sandbox_id).restart_count == 1, within=30)
    assert "event=reconcile_failed" not in service.log.read_text()


@pytest.mark.fault(36)
def test_a_full_disk_is_unavailable_and_recovers_even_where_the_log_is_on_it(
    service: Service, stub: sandbox_pb2_grpc.SandboxServiceStub
) -> None:
    assert service.process is not None
    full, ample = (1, resource.RLIM_INFINITY), (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    with service.client() as client:
        kept = running(client)
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, full)
        try:
            # A bare stub: nothing is repeated.
            with pytest.raises(grpc.RpcError) as caught:
                stub.Stop(pb.StopRequest(sandbox_id=kept.sandbox_id), timeout=20 * PATIENCE)
            told = errors.from_rpc(caught.value)
            assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
            assert client.status(kept.sandbox_id).phase == pb.PHASE_RUNNING
        finally:
            resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, ample)
        stopped = client.stop(kept.sandbox_id)
        assert stopped.status.generation == 2
        client.wait_until(kept.sandbox_id, "STOPPED", timeout=20 * PATIENCE)


@pytest.mark.fault(12)
@pytest.mark.slow
def test_sigterm_under_load_ends_calls_and_their_repeat_takes_effect_once(make_service: Callable[..., Service]) -> None:
    # Every caller has a call on its way when the calls end, however busy the machine is.
    env = {"SANDBOX_FAILPOINTS": "shutdown_watches_ended=sleep:0.5"}
    service = make_service("--local-isolation", "none", env=env).start()
    spec = pb.SandboxSpec(project="load", command=SLEEP.command)
    acknowledged: dict[str, str] = {}
    refused: dict[str, grpc.StatusCode] = {}
    restarted = False

    def create(stub: sandbox_pb2_grpc.SandboxServiceStub, request_id: str) -> pb.Sandbox:
        request = pb.CreateSandboxRequest(spec=spec, request_id=request_id)
        made: pb.Sandbox = stub.CreateSandbox(request, timeout=30 * PATIENCE, wait_for_ready=True).sandbox
        return made

    def load() -> None:
        # A bare stub: nothing is repeated.
        with grpc.insecure_channel(service.address) as channel:
            stub = sandbox_pb2_grpc.SandboxServiceStub(channel)
            request_id = ""
            while request_id not in refused and not restarted:
                request_id = str(uuid.uuid4())
                try:
                    acknowledged[request_id] = create(stub, request_id).uid
                except grpc.RpcError as error:
                    refused[request_id] = error.code()

    with grpc.insecure_channel(service.address) as channel, ThreadPoolExecutor(4) as pool:
        stream = sandbox_pb2_grpc.SandboxServiceStub(channel).WatchStatus(pb.WatchStatusRequest())
        assert next(stream).WhichOneof("event") == "snapshot_complete"
        workers = [pool.submit(load) for _ in range(4)]
        eventually(lambda: len(acknowledged) > 10)
        assert service.terminate() == 0
        with pytest.raises(grpc.RpcError) as caught:
            for _ in stream:
                pass
        assert errors.from_rpc(caught.value).code is grpc.StatusCode.UNAVAILABLE
        service.start()
        restarted = True
        for one in workers:
            one.result()
    # gRPC cancels those that the server had not taken yet.
    assert refused
    assert set(refused.values()) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    with service.client() as client, grpc.insecure_channel(service.address) as channel:
        stub = sandbox_pb2_grpc.SandboxServiceStub(channel)
        repeated = {request_id: create(stub, request_id).uid for request_id in {**acknowledged, **refused}}
        assert acknowledged.items() <= repeated.items()
        assert sorted(repeated.values()) == sorted(one.uid for one in client.list())


@pytest.mark.slow
def test_a_client_watch_resumes_across_a_restart(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    with service.client() as client:
        made = running(client)
        events = client.watch([made.sandbox_id], timeout=60 * PATIENCE)
        seen = [next(events), next(events)]
        service.kill()
        service.start()
        with service.client() as other:
            other.stop(made.sandbox_id)
        for event in events:
            seen.append(event)
            if event.status is not None and event.status.phase == pb.PHASE_STOPPED:
                break
    assert Kind.RESYNC not in {one.kind for one in seen}
    sequences = [one.sequence for one in seen[1:]]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))


@pytest.mark.slow
def test_two_services_do_not_share_a_data_directory(make_service: Callable[..., Service]) -> None:
    first = make_service().start()
    second = make_service()
    second.folder, second.log = first.folder, first.folder / "second.log"
    second.start(wait=False)
    assert second.process is not None
    assert second.process.wait(timeout=20 * PATIENCE) == 1
    assert "in use by another service" in second.log.read_text()


@pytest.mark.slow
def test_a_sandbox_sees_its_home_its_own_processes_and_a_read_only_system(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    script = "id -u > uid; pwd > pwd; env > env; ls /proc > proc; touch /usr/x 2> usr; ls %s > data 2>&1; sleep 1000"
    with service.client() as client:
        spec = pb.SandboxSpec(command=["/bin/sh", "-c", script % (service.folder / "data")])
        made = client.create("demo", spec=spec, env={"SECRET": samples.CANARY})
        client.wait_until(made.sandbox_id, "RUNNING", timeout=20 * PATIENCE)
        (folder,) = service.sandboxes()
        home = folder / "volume" / "home"
        eventually(lambda: (home / "data").exists() and (home / "data").stat().st_size > 0)
        assert (home / "pwd").read_text() == "/home/agent\n"
        assert f"SECRET={samples.CANARY}" in (home / "env").read_text()
        assert f"PORT={made.public_url.rpartition(':')[2]}\n" in (home / "env").read_text()
        pids = [one for one in (home / "proc").read_text().split() if one.isdigit()]
        assert len(pids) < 10
        assert "Read-only" in (home / "usr").read_text()
        assert "No such file" in (home / "data").read_text()
        files = [path for path in folder.iterdir() if path.is_file()]
        assert not any(samples.CANARY in path.read_text() for path in files)
        database = (service.folder / "data" / "sandbox.db").read_bytes()
        assert samples.CANARY.encode() not in database
        assert samples.CANARY not in service.log.read_text()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                assert samples.CANARY.encode() not in path.read_bytes()


@pytest.mark.slow
def test_readiness_is_asked_before_running(client: Client) -> None:
    serve = f"sleep 0.5; exec {sys.base_prefix}/bin/python3 -m http.server --bind 127.0.0.1 $PORT"
    spec = pb.SandboxSpec(command=["/bin/sh", "-c", serve], readiness=pb.Readiness(http_path="/"))
    made = client.create("demo", spec=spec)
    seen = [pb.Reason.Name(one.reason) for one in _until(client, made.sandbox_id, pb.PHASE_RUNNING)]
    assert "REASON_NOT_READY" in seen
    client.delete(made)


@pytest.mark.slow
def test_sandbox_that_never_becomes_ready_is_an_error_after_the_deadline(make_service: Callable[..., Service]) -> None:
    service = make_service("--start-deadline", "1.5").start()
    with service.client() as client:
        never = pb.SandboxSpec(command=["/bin/sleep", "1000"], readiness=pb.Readiness(tcp_port=3000))
        failed = client.create("demo", spec=never)
        with pytest.raises(errors.SandboxFailed) as caught:
            client.wait_until(failed.sandbox_id, "RUNNING", timeout=20 * PATIENCE, fail_on_error=True)
        assert caught.value.status.reason == pb.REASON_START_DEADLINE


def _until(client: Client, sandbox_id: str, phase: int) -> Iterator[pb.SandboxStatus]:
    for event in client.watch([sandbox_id], timeout=30 * PATIENCE):
        if event.status is not None:
            yield event.status
            if event.status.phase == phase:
                return


@pytest.mark.slow
def test_lost_disk_is_reported_and_nothing_starts_on_an_empty_one(make_service: Callable[..., Service]) -> None:
    import shutil

    service = make_service().start()
    with service.client() as client:
        made = running(client)
        client.stop(made.sandbox_id)
        client.wait_until(made.sandbox_id, "STOPPED", generation=2, timeout=20 * PATIENCE)
        (folder,) = service.sandboxes()
        shutil.rmtree(folder / "volume" / "home")
        eventually(lambda: client.status(made.sandbox_id).reason == pb.REASON_VOLUME_LOST)
        client.start(made.sandbox_id)
        eventually(lambda: client.status(made.sandbox_id).reason == pb.REASON_VOLUME_LOST)
        time.sleep(0.5)
        assert client.status(made.sandbox_id).reason == pb.REASON_VOLUME_LOST
        client.start(made.sandbox_id, accept_data_loss=True)
        client.wait_until(made.sandbox_id, "RUNNING", timeout=20 * PATIENCE)


@pytest.mark.slow
def test_logs_are_one_json_line_an_event(make_service: Callable[..., Service]) -> None:
    service = make_service("--log-format", "json").start()
    with service.client() as client:
        running(client)
        with pytest.raises(errors.InvalidArgument):
            client.create("x\ny\x1b[31m")
    service.terminate()
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    assert {"serving", "call", "phase_changed", "stopped"} <= {one["event"] for one in lines}


@pytest.mark.find(40)
@pytest.mark.slow
def test_log_line_of_a_mutation_has_its_sandbox_and_its_caller(make_service: Callable[..., Service]) -> None:
    service = make_service("--log-format", "json").start()
    request_ids = [str(uuid.uuid4()) for _ in range(2)]
    with service.client() as client:
        made = client.create("demo", spec=SLEEP, request_id=request_ids[0])
        with pytest.raises(errors.NotFound):
            client.stop("never-was", request_id=request_ids[1])
    service.terminate()
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    calls = [one for one in lines if one["event"] == "call"]
    assert [(one["method"], one["sandbox"]) for one in calls] == [
        ("CreateSandbox", made.sandbox_id),
        ("Stop", "never-was"),
    ]
    assert [one["request_id"] for one in calls] == request_ids
    for one in calls:
        assert one["namespace"] == "default"
        assert (one["tenant"], one["operator"]) == ("default", "")
        assert one["peer"].startswith("ipv4:127.0.0.1:")


@pytest.mark.slow
def test_the_service_ends_on_sigint_too(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    assert service.process is not None
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(timeout=20 * PATIENCE) == 0


@pytest.mark.fault(52)
@pytest.mark.slow
def test_the_value_of_a_variable_is_nowhere_but_with_its_process(make_service: Callable[..., Service]) -> None:
    service = make_service("--log-level", "debug", "--log-format", "json").start()
    canary = samples.CANARY.encode()
    said: list[bytes] = []
    with grpc.insecure_channel(service.address) as channel, service.client() as client:

        def call(method: str, request: Message) -> None:
            try:
                said.append(
                    channel.unary_unary(f"/sandbox.v1.SandboxService/{method}")(
                        request.SerializeToString(), timeout=10 * PATIENCE
                    )
                )
            except grpc.RpcError as error:
                said.append(repr((error, error.trailing_metadata())).encode())  # type: ignore[attr-defined]

        stream = channel.unary_stream("/sandbox.v1.SandboxService/WatchStatus")(b"", timeout=60 * PATIENCE)
        told = ThreadPoolExecutor(1)
        watched = told.submit(lambda: said.extend(stream))
        create = pb.CreateSandboxRequest(
            request_id=str(uuid.uuid4()), sandbox_id="kept", spec=SLEEP, env={"SECRET": samples.CANARY}
        )
        create.spec.project = "demo"
        call("CreateSandbox", create)
        call("CreateSandbox", create)
        client.wait_until("kept", "RUNNING", timeout=20 * PATIENCE)
        create.env["SECRET"] = f"{samples.CANARY}\0"
        call("CreateSandbox", create)
        create.env["SECRET"] = f"{samples.CANARY}2"
        call("CreateSandbox", create)
        for values in ({"OTHER": samples.CANARY}, {"A B": samples.CANARY}, {"C": samples.CANARY + "x" * 33_000}):
            call("UpdateEnvVars", pb.UpdateEnvVarsRequest(sandbox_id="kept", set=values))
        client.wait_until("kept", "RUNNING", generation=2, timeout=20 * PATIENCE)
        # A process that fails says so with what it was given.
        broken = pb.SandboxSpec(project="demo", command=["/bin/sh", "-c", "echo $SECRET >&2; exit 3"])
        call("CreateSandbox", pb.CreateSandboxRequest(sandbox_id="broken", spec=broken, env={"SECRET": samples.CANARY}))
        client.wait_until("broken", "ERROR", timeout=30 * PATIENCE)
        for method in ("GetStatus", "GetSandbox"):
            for name in ("kept", "broken"):
                call(method, pb.GetStatusRequest(sandbox_id=name))
        call("ListSandboxes", pb.ListSandboxesRequest())
        held = {}
        for path in service.folder.rglob("*"):
            # What is written anew meanwhile is gone by its former name.
            if path.is_file() and "volume" not in path.parts:
                with contextlib.suppress(FileNotFoundError):
                    held[path.name] = path.read_bytes()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                said.append(path.read_bytes())
        service.terminate()
        with contextlib.suppress(grpc.RpcError):
            watched.result(10 * PATIENCE)
        told.shutdown()
    assert len(said) > 20
    assert not any(canary in one for one in said)
    assert {"sandbox.db", "service.log"} <= held.keys()
    held["service.log"] += service.log.read_bytes()
    assert [name for name, content in held.items() if canary in content] == []


@pytest.mark.slow
def test_metrics_count_calls_passes_and_sandboxes(make_service: Callable[..., Service]) -> None:
    port = free_port()
    service = make_service("--metrics-listen", f"127.0.0.1:{port}").start()

    def scraped(name: str, **labels: str) -> float | None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5 * PATIENCE) as answer:
            text = answer.read().decode()
        assert not any(word in text for word in ("demo", samples.CANARY))
        found = (one for family in text_string_to_metric_families(text) for one in family.samples)
        return next((one.value for one in found if one.name == name and one.labels == labels), None)

    with service.client() as client:
        made = running(client, env={"SECRET": samples.CANARY})
        with pytest.raises(errors.NotFound):
            client.status("never-was")
        stream = client.watch([made.sandbox_id], timeout=30 * PATIENCE)
        next(stream)
        counted: dict[str, dict[str, str]] = {
            "sandbox_calls_total": {"method": "CreateSandbox", "code": "OK", "reason": ""},
            "sandbox_calls_open": {"method": "WatchStatus"},
            "sandbox_sandboxes": {"phase": "RUNNING", "reason": "READY"},
        }
        not_found = {"method": "GetStatus", "code": "NOT_FOUND", "reason": "SANDBOX_NOT_FOUND"}
        for name, labels in (*counted.items(), ("sandbox_calls_total", not_found)):
            # Calls are counted after they are answered.
            eventually(lambda name=name, labels=labels: scraped(name, **labels) == 1)  # type: ignore[misc]
        assert (scraped("sandbox_reconciles_total", outcome="done", reason="") or 0) > 0
        assert scraped("sandbox_engine_in_sight") == 1
        assert scraped("sandbox_reconciles_waiting") is not None
        assert (scraped("process_resident_memory_bytes") or 0) > 0
        stream.close()
        client.stop(made.sandbox_id)
        client.wait_until(made.sandbox_id, "STOPPED", generation=2, timeout=20 * PATIENCE)
        eventually(lambda: scraped("sandbox_calls_open", method="WatchStatus") == 0)
        assert scraped("sandbox_sandboxes", phase="STOPPED", reason="POD_GONE") == 1
    assert service.terminate() == 0


@pytest.mark.fault(76)
@pytest.mark.find(33)
@pytest.mark.parametrize("link", [False, True], ids=["same path", "link"])
@pytest.mark.slow
def test_two_services_do_not_share_a_sqlite_file(
    make_service: Callable[..., Service], tmp_path: Path, link: bool
) -> None:
    file, other = tmp_path / "shared.db", tmp_path / "link.db"
    if link:
        other.symlink_to(file)
    nowhere = samples.kubeconfig(tmp_path, free_port())
    flags = ("--engine", "kubernetes", "--kubeconfig", str(nowhere))
    first = make_service(*flags, "--database-url", f"sqlite:///{file}").start()
    second = make_service(*flags, "--database-url", f"sqlite:///{other if link else file}")
    second.start(wait=False)
    assert second.process is not None
    assert second.process.wait(timeout=20 * PATIENCE) == 1
    said = second.log.read_text()
    assert f"database-url: {file} is in use by another service: stop that one" in said
    assert "Traceback" not in said
    first.kill()
    second.start()
