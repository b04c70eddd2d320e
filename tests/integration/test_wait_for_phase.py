"""WaitForPhase through a real gRPC client, on real SQLite and real PostgreSQL."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server.domain.event import Event
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.rpc import waits

from tests.support import samples
from tests.support import served as serving
from tests.support.served import Served
from tests.support.waiting import PATIENCE


class Waiter:
    """Waits for the sandbox `a`."""

    def __init__(self, service: Served) -> None:
        self.running = service.running
        self.stub = service.stub
        self._service = service

    async def write(self, phase: Phase, reason: Reason = Reason.READY, **changes: Any) -> Event:
        return await self._service.write("a", phase, reason, **changes)

    async def wait(self, phase: "pb.Phase.ValueType" = pb.PHASE_RUNNING, **fields: Any) -> Any:
        request = pb.WaitForPhaseRequest(sandbox_id="a", phase=phase, **fields)
        return await self.stub.WaitForPhase(request, timeout=20 * PATIENCE)


@pytest.fixture
async def served(database_url: str, tmp_path: Path) -> AsyncIterator[Waiter]:
    async with serving.served(database_url, tmp_path) as service:
        await service.create("a")
        yield Waiter(service)


async def test_a_wait_is_answered_with_the_event_that_ends_it(served: Waiter) -> None:
    waiting = asyncio.create_task(served.wait(generation=2))
    await served.write(Phase.RUNNING)
    reached = await served.write(Phase.RUNNING, generation=2)
    answer = await waiting
    assert (answer.outcome, answer.status.sequence) == (pb.WAIT_OUTCOME_REACHED, reached.sequence)
    assert (answer.status.generation, answer.status.stale) == (2, True)


async def test_a_wait_whose_time_is_over_has_the_present_status(served: Waiter) -> None:
    began = time.monotonic()
    answer = await served.wait(timeout_seconds=0.3)
    assert time.monotonic() - began >= 0.3
    assert (answer.outcome, answer.status.phase) == (pb.WAIT_OUTCOME_PENDING, pb.PHASE_CREATING)
    assert (await served.wait(timeout_seconds=0)).status == answer.status


async def test_a_wait_lasts_no_longer_than_the_service_allows(served: Waiter, monkeypatch: pytest.MonkeyPatch) -> None:
    assert waits.WAIT_MOST == 30
    monkeypatch.setattr(waits, "WAIT_MOST", 0.2)
    for fields in ({}, {"timeout_seconds": 3600.0}, {"timeout_seconds": float("inf")}):
        assert (await served.wait(**fields)).outcome == pb.WAIT_OUTCOME_PENDING


async def test_an_ended_sandbox_fails_a_wait_for_another_phase(served: Waiter) -> None:
    await served.write(Phase.TERMINATED, Reason.DELETED)
    assert (await served.wait(pb.PHASE_STOPPED)).outcome == pb.WAIT_OUTCOME_FAILED
    assert (await served.wait(pb.PHASE_TERMINATED)).outcome == pb.WAIT_OUTCOME_REACHED


async def test_an_error_fails_a_wait_once_the_patience_is_over(served: Waiter) -> None:
    now = samples.NOW.now(samples.NOW.tzinfo)
    await served.write(Phase.ERROR, Reason.UNSCHEDULABLE, transition_time=now)
    assert (await served.wait(timeout_seconds=0.1)).outcome == pb.WAIT_OUTCOME_PENDING
    assert (await served.wait(timeout_seconds=0.1, fail_on_error=True)).outcome == pb.WAIT_OUTCOME_PENDING
    answer = await served.wait(fail_on_error=True, patience_seconds=0.5)
    assert (answer.outcome, answer.status.reason) == (pb.WAIT_OUTCOME_FAILED, pb.REASON_UNSCHEDULABLE)
    await served.write(Phase.ERROR, Reason.CRASH_LOOP, transition_time=now)
    assert (await served.wait(fail_on_error=True)).outcome == pb.WAIT_OUTCOME_FAILED


async def test_a_service_that_stops_ends_waits_at_once_with_the_present_status(
    served: Waiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    # They would last longer than their calls may.
    monkeypatch.setattr(waits, "WAIT_MOST", 1000)
    waiting = [asyncio.create_task(served.wait()) for _ in range(20)]
    while sum(len(waits) for waits in served.running.feed.waits._waits.values()) < len(waiting):
        await asyncio.sleep(0.01)
    served.running.feed.close()
    stopping = asyncio.create_task(served.running.server.stop(1000))
    answers = await asyncio.gather(*waiting)
    assert {one.outcome for one in answers} == {pb.WAIT_OUTCOME_PENDING}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.wait()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await stopping


async def test_a_caller_that_leaves_ends_its_wait(served: Waiter) -> None:
    call = served.stub.WaitForPhase(
        pb.WaitForPhaseRequest(sandbox_id="a", phase=pb.PHASE_RUNNING), timeout=20 * PATIENCE
    )
    while served.running.server.calls.open["WaitForPhase"] == 0:
        await asyncio.sleep(0.01)
    call.cancel()
    async with asyncio.timeout(30 * PATIENCE):
        while served.running.server.calls.open["WaitForPhase"] or served.running.feed.waits._waits:
            await asyncio.sleep(0.01)
