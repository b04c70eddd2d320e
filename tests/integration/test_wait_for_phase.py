"""WaitForPhase through a real gRPC client, on real SQLite and real PostgreSQL."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import SecretStr
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import sandbox_pb2_grpc
from sandbox_server import app
from sandbox_server.domain.event import Event
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Key
from sandbox_server.rpc import waits
from sandbox_server.settings import Settings

from tests.support import samples
from tests.support.blind import BlindEngine


class Served:
    """The service over an engine that sees nothing: statuses change as the test writes them."""

    def __init__(self, running: app.Service, stub: sandbox_pb2_grpc.SandboxServiceStub) -> None:
        self.running = running
        self.stub = stub

    async def write(self, phase: Phase, reason: Reason = Reason.READY, **changes: Any) -> Event:
        def change(reader: Any) -> Any:
            last = reader.last(Key("default", "a"))
            status = samples.status(phase=phase, reason=reason, transition_time=changes.pop("since", samples.NOW))
            return samples.write(samples.changed(last, status=status, **changes))

        return await self.running.store.write(change)

    async def wait(self, phase: "pb.Phase.ValueType" = pb.PHASE_RUNNING, **fields: Any) -> Any:
        request = pb.WaitForPhaseRequest(sandbox_id="a", phase=phase, **fields)
        return await self.stub.WaitForPhase(request, timeout=20)


@pytest.fixture
async def served(database_url: str, tmp_path: Path) -> AsyncIterator[Served]:
    settings = Settings(
        listen="127.0.0.1:0",
        data_dir=tmp_path,
        database_url=SecretStr(database_url),
        encryption_keys=SecretStr(base64.b64encode(b"k" * 32).decode()),
        shutdown_grace=5,
    )
    async with AsyncExitStack() as opened:
        running = await opened.enter_async_context(app.service(settings, engine=BlindEngine()))
        channel = await opened.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{running.port}"))
        stub: Any = sandbox_pb2_grpc.SandboxServiceStub(channel)
        await stub.CreateSandbox(pb.CreateSandboxRequest(sandbox_id="a", spec=pb.SandboxSpec(project="demo")))
        yield Served(running, stub)


async def test_a_wait_is_answered_with_the_event_that_ends_it(served: Served) -> None:
    waiting = asyncio.create_task(served.wait(generation=2))
    await served.write(Phase.RUNNING)
    reached = await served.write(Phase.RUNNING, generation=2)
    answer = await waiting
    assert (answer.outcome, answer.status.sequence) == (pb.WAIT_OUTCOME_REACHED, reached.sequence)
    assert (answer.status.generation, answer.status.stale) == (2, True)


async def test_a_wait_whose_time_is_over_has_the_present_status(served: Served) -> None:
    began = time.monotonic()
    answer = await served.wait(timeout_seconds=0.3)
    assert 0.3 <= time.monotonic() - began < 5
    assert (answer.outcome, answer.status.phase) == (pb.WAIT_OUTCOME_PENDING, pb.PHASE_CREATING)
    assert (await served.wait(timeout_seconds=0)).status == answer.status


async def test_a_wait_lasts_no_longer_than_the_service_allows(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert waits.WAIT_MOST == 30
    monkeypatch.setattr(waits, "WAIT_MOST", 0.2)
    for fields in ({}, {"timeout_seconds": 3600.0}, {"timeout_seconds": float("inf")}):
        assert (await served.wait(**fields)).outcome == pb.WAIT_OUTCOME_PENDING


async def test_an_ended_sandbox_fails_a_wait_for_another_phase(served: Served) -> None:
    await served.write(Phase.TERMINATED, Reason.DELETED)
    assert (await served.wait(pb.PHASE_STOPPED)).outcome == pb.WAIT_OUTCOME_FAILED
    assert (await served.wait(pb.PHASE_TERMINATED)).outcome == pb.WAIT_OUTCOME_REACHED


async def test_an_error_fails_a_wait_once_the_patience_is_over(served: Served) -> None:
    now = samples.NOW.now(samples.NOW.tzinfo)
    await served.write(Phase.ERROR, Reason.UNSCHEDULABLE, since=now)
    assert (await served.wait(timeout_seconds=0.1)).outcome == pb.WAIT_OUTCOME_PENDING
    assert (await served.wait(timeout_seconds=0.1, fail_on_error=True)).outcome == pb.WAIT_OUTCOME_PENDING
    answer = await served.wait(fail_on_error=True, patience_seconds=0.5)
    assert (answer.outcome, answer.status.reason) == (pb.WAIT_OUTCOME_FAILED, pb.REASON_UNSCHEDULABLE)
    await served.write(Phase.ERROR, Reason.CRASH_LOOP, since=now)
    assert (await served.wait(fail_on_error=True)).outcome == pb.WAIT_OUTCOME_FAILED


async def test_a_service_that_stops_ends_waits_at_once_with_the_present_status(served: Served) -> None:
    waiting = [asyncio.create_task(served.wait()) for _ in range(20)]
    while served.running.server.calls.open["WaitForPhase"] < len(waiting):
        await asyncio.sleep(0.01)
    began = time.monotonic()
    served.running.feed.close()
    stopping = asyncio.create_task(served.running.server.stop(5))
    answers = await asyncio.gather(*waiting)
    assert time.monotonic() - began < 2
    assert {one.outcome for one in answers} == {pb.WAIT_OUTCOME_PENDING}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.wait()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await stopping


async def test_a_caller_that_leaves_ends_its_wait(served: Served) -> None:
    call = served.stub.WaitForPhase(pb.WaitForPhaseRequest(sandbox_id="a", phase=pb.PHASE_RUNNING), timeout=20)
    while served.running.server.calls.open["WaitForPhase"] == 0:
        await asyncio.sleep(0.01)
    call.cancel()
    async with asyncio.timeout(5):
        while served.running.server.calls.open["WaitForPhase"] or served.running.feed._topics._topics:
            await asyncio.sleep(0.01)
