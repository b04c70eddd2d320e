"""Both clients against the live service: waits, errors and lists."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient, Client, errors

from tests.support import samples
from tests.support.service import Service
from tests.support.specs import SLEEP
from tests.support.waiting import PATIENCE


@pytest.fixture
async def aio(service: Service) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service.address) as client:
        yield client


@pytest.mark.slow
def test_waiting_after_an_update_does_not_take_the_old_pod_for_the_new_one(client: Client) -> None:
    made = client.create("demo", spec=SLEEP)
    client.wait_until(made.sandbox_id, "RUNNING", timeout=20 * PATIENCE)
    heard: list[int] = []
    changed = client.update_env(made.sandbox_id, set={"A": "1"})
    status = client.wait_until(
        made.sandbox_id,
        "running",
        generation=changed.status.generation,
        timeout=20 * PATIENCE,
        progress=lambda one: heard.append(one.phase),
    )
    assert (status.generation, status.observed_generation) == (2, 2)
    assert heard[-1] == pb.PHASE_RUNNING
    client.delete(made.sandbox_id)


@pytest.mark.slow
async def test_a_wait_that_runs_out_of_time_says_where_the_sandbox_stands(client: Client, aio: AsyncClient) -> None:
    never = pb.SandboxSpec(command=["/bin/sleep", "1000"], readiness=pb.Readiness(http_path="/"))
    made = client.create("demo", spec=never)
    client.wait_until(made, "STARTING", timeout=20 * PATIENCE)
    with pytest.raises(errors.TimedOut, match=f"not RUNNING within the time: {made.sandbox_id} is STARTING"):
        client.wait_until(made.sandbox_id, "RUNNING", timeout=3)
    with pytest.raises(errors.TimedOut, match=f"{made.sandbox_id} is STARTING"):
        await aio.wait_until(made.sandbox_id, "RUNNING", timeout=3)
    client.delete(made.sandbox_id)


@pytest.mark.slow
async def test_waiting_for_a_sandbox_that_ends_or_is_not_there_fails_at_once(client: Client, aio: AsyncClient) -> None:
    with pytest.raises(errors.NotFound) as caught:
        await aio.wait_until("never-was", "RUNNING")
    assert caught.value.reason == "SANDBOX_NOT_FOUND"
    made = client.create("demo", spec=SLEEP)
    client.delete(made.sandbox_id)
    with pytest.raises(errors.SandboxFailed, match="DELETED"):
        await aio.wait_until(made.sandbox_id, "STOPPED", timeout=20 * PATIENCE)


async def test_async_errors_are_the_same_types_with_reason_and_fields(aio: AsyncClient) -> None:
    with pytest.raises(errors.InvalidArgument) as bad:
        await aio.create("Bad", env={"A B": samples.CANARY})
    assert {"spec.project"} < set(bad.value.fields)
    assert samples.CANARY not in str(bad.value) + str(bad.value.fields)
    made = await aio.create("demo", spec=SLEEP)
    with pytest.raises(errors.AlreadyExists):
        await aio.create("demo", sandbox_id=made.sandbox_id, spec=SLEEP)
    with pytest.raises(errors.Aborted) as aborted:
        await aio.stop(made.sandbox_id, expected_generation=9)
    assert aborted.value.reason == "GENERATION_MISMATCH"
    await aio.delete(made.sandbox_id)
    with pytest.raises(errors.FailedPrecondition):
        await aio.start(made.sandbox_id)


async def test_a_cancelled_wait_is_cancelled_and_the_client_goes_on(aio: AsyncClient) -> None:
    made = await aio.create("demo", spec=SLEEP)
    waiting = asyncio.create_task(aio.wait_until(made.sandbox_id, "STOPPED"))
    await asyncio.sleep(0.3)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await aio.status(made.sandbox_id)).sandbox_id == made.sandbox_id
    await aio.delete(made.sandbox_id)


def test_lists_go_on_over_pages_in_both_clients(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"pages-{number}" for number in range(5)]
    for name in names:
        client.create("pages", sandbox_id=name, spec=SLEEP)
    whole = Client.page
    monkeypatch.setattr(Client, "page", lambda self, **given: whole(self, **{**given, "page_size": 2}))
    assert [one.sandbox_id for one in client.list(project="pages")] == names
    for name in names:
        client.delete(name)


def test_loopback_is_reached_past_an_http_proxy_of_the_environment(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with service.client(timeout=5) as client:
        client.page()


async def test_both_clients_wait_by_calls_that_need_no_stream(client: Client, aio: AsyncClient) -> None:
    made = client.create("demo", spec=SLEEP)
    reached = client.wait_for_phase(made.sandbox_id, "RUNNING", generation=1)
    assert (reached.outcome, reached.status.phase) == (pb.WAIT_OUTCOME_REACHED, pb.PHASE_RUNNING)
    assert reached.status == client.status(made.sandbox_id)
    pending = await aio.wait_for_phase(made.sandbox_id, "stopped", wait=0.1)
    assert (pending.outcome, pending.status.phase) == (pb.WAIT_OUTCOME_PENDING, pb.PHASE_RUNNING)
    client.delete(made.sandbox_id)
    failed = await aio.wait_for_phase(made.sandbox_id, pb.PHASE_STOPPED)
    assert (failed.outcome, failed.status.phase) == (pb.WAIT_OUTCOME_FAILED, pb.PHASE_TERMINATED)


def test_a_wait_is_answered_before_the_deadline_of_its_call(client: Client) -> None:
    made = client.create("demo", spec=SLEEP)
    end = time.monotonic() + 5 * PATIENCE
    outcomes: list[int] = []
    # On a busy machine an answer that was sent in time may arrive late.
    while not outcomes and time.monotonic() < end:
        with contextlib.suppress(errors.TimedOut):
            outcomes.append(client.wait_for_phase(made.sandbox_id, "STOPPED", timeout=2).outcome)
    assert outcomes == [pb.WAIT_OUTCOME_PENDING]
    client.delete(made.sandbox_id)
