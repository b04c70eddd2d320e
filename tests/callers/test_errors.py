"""What the clients make of answers that the live service does not give on demand."""

import asyncio
import math
import pickle
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import sandbox_pb2_grpc
from sandbox_client import AsyncClient, Client, Kind, calls, channel, errors, policy, retry, watch, words

from tests.support.waiting import PATIENCE

TYPES = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPrecondition,
    grpc.StatusCode.ABORTED: errors.Aborted,
    grpc.StatusCode.OUT_OF_RANGE: errors.OutOfRange,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.TimedOut,
}


class Scripted(sandbox_pb2_grpc.SandboxServiceServicer):
    """Answers GetStatus with `code` and WatchStatus with `statuses`, then holds the watch open, and counts the open."""

    def __init__(self) -> None:
        self.code = grpc.StatusCode.OK
        self.calls = 0
        self.statuses: list[pb.WatchStatusResponse] = []
        self.end: grpc.StatusCode | None = None
        self.open = 0
        self.opened = 0

    async def GetStatus(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        self.calls += 1
        await context.abort(self.code, "words")

    async def WatchStatus(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        self.open += 1
        self.opened += 1
        try:
            for one in self.statuses:
                yield one
            if self.end is not None:
                await context.abort(self.end, "words")
            await asyncio.Event().wait()
        finally:
            self.open -= 1


@pytest.fixture
async def scripted() -> AsyncIterator[tuple[Scripted, str]]:
    service = Scripted()
    server = grpc.aio.server()
    sandbox_pb2_grpc.add_SandboxServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield service, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(30 * PATIENCE):
        while not check():
            await asyncio.sleep(0.02)


async def test_a_time_out_without_end_is_none(scripted: tuple[Scripted, str]) -> None:
    service, address = scripted
    service.code = grpc.StatusCode.NOT_FOUND
    for timeout in (math.inf, 1e12):
        async with AsyncClient(address, timeout=timeout) as client:
            with pytest.raises(errors.NotFound):
                await client.status("demo")


FINAL = [one for one in grpc.StatusCode if one not in (grpc.StatusCode.OK, *policy.CALLS.codes)]


@pytest.mark.parametrize("code", FINAL, ids=lambda code: code.name)
async def test_every_other_code_is_final_and_has_its_type_in_both_clients(
    scripted: tuple[Scripted, str], code: grpc.StatusCode
) -> None:
    service, address = scripted
    service.code = code
    expected = TYPES.get(code, errors.ServiceError)

    def ordinary() -> None:
        with Client(address, timeout=5) as client, pytest.raises(expected) as caught:
            client.status("demo")
        assert (type(caught.value), caught.value.code) == (expected, code)

    async with AsyncClient(address, timeout=5) as client:
        with pytest.raises(expected) as caught:
            await client.status("demo")
    assert (type(caught.value), caught.value.code) == (expected, code)
    await asyncio.to_thread(ordinary)
    assert service.calls == 2


async def test_a_failed_wait_closes_its_stream_even_while_its_error_is_kept(scripted: tuple[Scripted, str]) -> None:
    service, address = scripted
    status = pb.SandboxStatus(sandbox_id="demo", phase=pb.PHASE_ERROR, reason=pb.REASON_IMAGE_PULL)
    service.statuses = [pb.WatchStatusResponse(sequence=1, status=status)]
    kept: list[BaseException] = []

    def ordinary(client: Client) -> None:
        try:
            client.wait_until("demo", "RUNNING", fail_on_error=True)
        except errors.SandboxFailed as error:
            kept.append(error)

    async with AsyncClient(address) as client:
        try:
            await client.wait_until("demo", "RUNNING", fail_on_error=True)
        except errors.SandboxFailed as error:
            kept.append(error)
        await until(lambda: service.opened == 1 and service.open == 0)
        with Client(address) as blocking:
            await asyncio.to_thread(ordinary, blocking)
            await until(lambda: service.opened == 2 and service.open == 0)
    assert len(kept) == 2


async def test_a_watch_that_is_left_closes_its_stream(scripted: tuple[Scripted, str]) -> None:
    service, address = scripted
    service.statuses = [pb.WatchStatusResponse(sequence=1, status=pb.SandboxStatus())]
    async with AsyncClient(address) as client:
        events = client.watch()
        assert (await anext(events)).kind is Kind.SNAPSHOT
        await events.aclose()
        await until(lambda: service.opened == 1 and service.open == 0)


async def test_out_of_range_without_a_sequence_ends_the_watch_instead_of_asking_for_ever(
    scripted: tuple[Scripted, str],
) -> None:
    service, address = scripted
    service.end = grpc.StatusCode.OUT_OF_RANGE
    async with AsyncClient(address) as client:
        with pytest.raises(errors.OutOfRange):
            async for _ in client.watch():
                raise AssertionError
        assert service.opened == 1
        with pytest.raises(errors.OutOfRange):
            async for event in client.watch(after_sequence=3):
                assert event.kind is Kind.RESYNC
        assert service.opened == 3


async def test_wait_tolerates_an_error_unless_it_should_fail(scripted: tuple[Scripted, str]) -> None:
    service, address = scripted
    phases = (pb.PHASE_STARTING, pb.PHASE_ERROR, pb.PHASE_RUNNING)
    service.statuses = [
        pb.WatchStatusResponse(sequence=number, status=pb.SandboxStatus(phase=phase, sequence=number))
        for number, phase in enumerate(phases, 1)
    ]
    async with AsyncClient(address) as client:
        assert (await client.wait_until("demo", "RUNNING")).sequence == 3
        with pytest.raises(errors.SandboxFailed):
            await client.wait_until("demo", "RUNNING", fail_on_error=True)


def test_a_newer_service_has_words_that_this_client_shows_as_numbers() -> None:
    status = pb.SandboxStatus(sandbox_id="demo", reason=999, message="m")  # type: ignore[arg-type]
    assert str(errors.SandboxFailed(status)) == "demo: 999: m"
    assert words.short(pb.Phase, 77) == "77"
    assert words.short(pb.ConditionType, pb.CONDITION_TYPE_VOLUME_BOUND) == "VOLUME_BOUND"


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("localhost:1", True),
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("unix:/run/sandbox.sock", True),
        *((one, True) for one in ("LOCALHOST:1", "unix-abstract:a", "dns:///localhost:1", "ipv4:127.0.0.1:1")),
        *((one, True) for one in ("dns:[::1]:1", "ipv6:[::1]:1")),
        *((one, False) for one in ("dns://evil.example/localhost:1", "ipv4:127.0.0.1:1,10.0.0.1:1", "vsock:1:1")),
        ("127.evil.example:1", False),
        ("localhost.evil.example:1", False),
        ("127.0.0.1.evil.example:1", False),
        ("10.0.0.1:1", False),
        ("0.0.0.0:1", False),
        ("[2001:db8::1]:1", False),
        ("sandbox.example:443", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_only_what_cannot_leave_this_machine_counts_as_loopback(address: str, inside: bool) -> None:
    assert channel.is_loopback(address) is inside
    if not inside:
        with pytest.raises(ValueError, match="TLS") as caught:
            channel.metadata(address, "canary-token", tls=False)
        assert "canary" not in str(caught.value)


@pytest.mark.parametrize("token", ["canary\ntoken", "canary token", "canäry", "canary\x00", "canary\n"])
def test_a_token_that_cannot_be_sent_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII") as caught:
        Client("127.0.0.1:1", token=token)
    assert "can" not in str(caught.value).split("visible")[0]


def test_a_client_never_comes_back_sooner_than_asked() -> None:
    schedule = retry.Schedule(None)
    asked = errors.Unavailable("x", grpc.StatusCode.UNAVAILABLE, retry_after=2.0)
    delays = [schedule.delay(asked) for _ in range(200)]
    assert min(delays) >= 2.0
    assert max(delays) - min(delays) > 0.5


def test_success_makes_the_next_delay_short_again() -> None:
    schedule = retry.Schedule(None)
    gone = errors.Unavailable("x", grpc.StatusCode.UNAVAILABLE)
    for _ in range(50):
        schedule.delay(gone)
    schedule.succeeded()
    assert schedule.delay(gone) <= policy.CALLS.first_delay


def test_each_mutation_has_a_request_id_of_its_own_or_the_callers() -> None:
    made: list[Callable[..., calls.Call[Any]]] = [calls.create, calls.start, calls.stop, calls.delete, calls.update_env]
    ids = [make("demo").request.request_id for make in made * 2]
    assert len(set(ids)) == len(ids)
    assert all(make("demo", request_id="mine").request.request_id == "mine" for make in made)


def test_an_expected_generation_of_none_is_not_sent_and_zero_is() -> None:
    assert not calls.stop("demo").request.HasField("expected_generation")
    assert calls.stop("demo", expected_generation=0).request.HasField("expected_generation")


def test_a_spec_that_was_given_is_not_changed() -> None:
    spec = pb.SandboxSpec(project="theirs")
    assert calls.create("demo", spec=spec).request.spec.project == "demo"
    assert spec.project == "theirs"


def test_wait_without_any_status_says_so() -> None:
    wait = watch.Wait(pb.PHASE_RUNNING, 0, False, lambda _status: None)
    late = wait.timed_out(errors.TimedOut("x", grpc.StatusCode.DEADLINE_EXCEEDED, "R"))
    assert "nothing was heard" in str(late)
    assert (late.code, late.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "R")


def test_events_can_cross_to_another_process() -> None:
    event = watch.Event(Kind.CHANGE, 3, pb.SandboxStatus(sandbox_id="demo"))
    assert pickle.loads(pickle.dumps(event)) == event
