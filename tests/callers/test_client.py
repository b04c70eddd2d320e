"""The client by itself, against grpcio-testing's channel: what it sends, retries and makes of answers."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import grpc
import grpc_testing
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import Client, Kind, calls, channel, errors, policy, retry, watch

from tests.support.waiting import PATIENCE, eventually

SERVICE = pb.DESCRIPTOR.services_by_name["SandboxService"]


@pytest.fixture
def testing() -> grpc_testing.Channel:
    return grpc_testing.channel([SERVICE], grpc_testing.strict_real_time())


@pytest.fixture
def background() -> Callable[..., Future[Any]]:
    """Calls in a thread that a failed test leaves behind without waiting for it."""

    def run(work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        answer: Future[Any] = Future()

        def do() -> None:
            try:
                answer.set_result(work(*arguments))
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=do, daemon=True).start()
        return answer

    return run


def rich(code: int, *details: Any) -> tuple[tuple[str, bytes], ...]:
    status = status_pb2.Status(code=code, message="words")
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return (("grpc-status-details-bin", status.SerializeToString()),)


def take(testing: grpc_testing.Channel, method: str) -> tuple[Any, Any]:
    _, request, call = testing.take_unary_unary(SERVICE.methods_by_name[method])
    call.send_initial_metadata(())
    return request, call


def test_every_mutation_carries_a_request_id_that_its_retries_keep(
    testing: grpc_testing.Channel, background: Callable[..., Future[Any]]
) -> None:
    client = Client(over=testing)
    answer = background(client.stop, "demo")
    first, call = take(testing, "Stop")
    call.terminate(None, (), grpc.StatusCode.UNAVAILABLE, "gone")
    second, call = take(testing, "Stop")
    call.terminate(pb.StopResponse(sandbox=pb.Sandbox(sandbox_id="demo")), (), grpc.StatusCode.OK, "")
    assert answer.result(10 * PATIENCE).sandbox_id == "demo"
    assert first == second
    assert len(first.request_id) == 36


def test_what_is_not_unavailable_is_not_retried_and_keeps_reason_and_fields(
    testing: grpc_testing.Channel, background: Callable[..., Future[Any]]
) -> None:
    answer = background(Client(over=testing).create, "Bad")
    _, call = take(testing, "CreateSandbox")
    violation = error_details_pb2.BadRequest.FieldViolation(field="spec.project", description="must be")
    metadata = rich(
        code_pb2.INVALID_ARGUMENT,
        error_details_pb2.ErrorInfo(reason="INVALID_FIELDS", metadata={"reference": "r"}),
        error_details_pb2.BadRequest(field_violations=[violation]),
    )
    call.terminate(None, metadata, grpc.StatusCode.INVALID_ARGUMENT, "words")
    with pytest.raises(errors.InvalidArgument) as caught:
        answer.result(10 * PATIENCE)
    assert caught.value.reason == "INVALID_FIELDS"
    assert caught.value.fields == {"spec.project": "must be"}
    assert caught.value.reference == "r"


def test_the_tries_end_with_the_timeout(testing: grpc_testing.Channel, background: Callable[..., Future[Any]]) -> None:
    answer = background(Client(over=testing, timeout=0.3).status, "demo")

    def refuse() -> None:
        while not answer.done():
            _, call = take(testing, "GetStatus")
            call.terminate(None, (), grpc.StatusCode.UNAVAILABLE, "gone")

    thread = threading.Thread(target=refuse, daemon=True)
    thread.start()
    with pytest.raises(errors.Unavailable):
        answer.result(10 * PATIENCE)


def status(sequence: int, phase: int = pb.PHASE_RUNNING) -> pb.WatchStatusResponse:
    return pb.WatchStatusResponse(sequence=sequence, status=pb.SandboxStatus(phase=phase, sequence=sequence))  # type: ignore[arg-type]


def marker(sequence: int) -> pb.WatchStatusResponse:
    return pb.WatchStatusResponse(sequence=sequence, snapshot_complete=pb.SnapshotComplete(count=1))


def test_a_watch_resumes_after_the_last_sequence_once_the_snapshot_was_complete(
    testing: grpc_testing.Channel, background: Callable[..., Future[Any]]
) -> None:
    client = Client(over=testing)
    seen: list[watch.Event] = []
    answer = background(lambda: [seen.append(one) for one in client.watch(["demo"])])

    def stream() -> tuple[Any, Any]:
        _, request, call = testing.take_unary_stream(SERVICE.methods_by_name["WatchStatus"])
        call.send_initial_metadata(())
        return request, call

    def read(count: int) -> None:
        # This channel forgets what was not read when a call ends; a real one does not.
        eventually(lambda: len(seen) == count)

    request, call = stream()
    assert not request.HasField("after_sequence")
    call.send_response(status(4))
    read(1)
    call.terminate((), grpc.StatusCode.UNAVAILABLE, "gone")
    request, call = stream()
    assert not request.HasField("after_sequence")
    call.send_response(status(4))
    call.send_response(marker(5))
    call.send_response(pb.WatchStatusResponse(sequence=8, heartbeat=pb.Heartbeat()))
    call.send_response(status(9))
    read(5)
    call.terminate((), grpc.StatusCode.UNAVAILABLE, "gone")
    request, call = stream()
    assert request.after_sequence == 9
    call.terminate((), grpc.StatusCode.OUT_OF_RANGE, "trimmed")
    request, call = stream()
    assert not request.HasField("after_sequence")
    call.send_response(status(12))
    call.send_response(marker(12))
    read(8)
    call.terminate((), grpc.StatusCode.OK, "")
    answer.result(10 * PATIENCE)
    kinds = [(one.kind, one.sequence) for one in seen]
    assert kinds == [
        (Kind.SNAPSHOT, 4),
        (Kind.RESYNC, 0),
        (Kind.SNAPSHOT, 4),
        (Kind.SYNCED, 5),
        (Kind.CHANGE, 9),
        (Kind.RESYNC, 0),
        (Kind.SNAPSHOT, 12),
        (Kind.SYNCED, 12),
    ]


def test_waiting_counts_only_the_generation_of_its_mutation() -> None:
    def of(phase: int, generation: int) -> pb.SandboxStatus:
        return pb.SandboxStatus(phase=phase, generation=generation, reason=pb.REASON_IMAGE_PULL)  # type: ignore[arg-type]

    assert not watch.reached(of(pb.PHASE_RUNNING, 1), pb.PHASE_RUNNING, 2, fail_on_error=True)
    assert watch.reached(of(pb.PHASE_RUNNING, 2), pb.PHASE_RUNNING, 2, fail_on_error=True)
    assert not watch.reached(of(pb.PHASE_ERROR, 2), pb.PHASE_RUNNING, 2, fail_on_error=False)
    with pytest.raises(errors.SandboxFailed, match="IMAGE_PULL"):
        watch.reached(of(pb.PHASE_ERROR, 2), pb.PHASE_RUNNING, 2, fail_on_error=True)
    with pytest.raises(errors.SandboxFailed):
        watch.reached(of(pb.PHASE_TERMINATED, 2), pb.PHASE_RUNNING, 2, fail_on_error=False)


def test_a_heartbeat_moves_the_point_to_resume_at() -> None:
    cursor = watch.StatusCursor(watch.request([], "", "", "", 3), None)
    assert cursor.take(pb.WatchStatusResponse(sequence=9, heartbeat=pb.Heartbeat())) is None
    assert cursor.request().after_sequence == 9


def test_delays_grow_and_obey_the_service() -> None:
    schedule = retry.Schedule(None)
    gone = errors.Unavailable("x", grpc.StatusCode.UNAVAILABLE)
    delays = [schedule.delay(gone) for _ in range(12)]
    assert delays[0] <= policy.CALLS.first_delay
    assert max(delays) <= policy.CALLS.longest_delay
    asked = errors.Unavailable("x", grpc.StatusCode.UNAVAILABLE, retry_after=60)
    assert schedule.delay(asked) >= 30
    with pytest.raises(errors.Unavailable):
        retry.Schedule(0.0).delay(gone)


def test_a_token_is_not_sent_in_plaintext_over_a_network() -> None:
    assert channel.metadata("127.0.0.1:1", "t", tls=False) == (("authorization", "Bearer t"),)
    assert channel.metadata("example.com:1", "t", tls=True)
    with pytest.raises(ValueError, match="TLS"):
        channel.metadata("example.com:1", "t", tls=False)


def test_phases_have_names() -> None:
    assert calls.phase("running") == calls.phase("PHASE_RUNNING") == pb.PHASE_RUNNING
    with contextlib.suppress(ValueError):
        calls.phase("nonsense")
        raise AssertionError
