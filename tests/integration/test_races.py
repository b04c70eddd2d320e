"""Callers that race, and callers that leave: every answer that was given holds."""

import asyncio
import contextlib
import random
import uuid
from collections.abc import Callable

import grpc
import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import sandbox_pb2_grpc
from sandbox_client import AsyncClient, errors

from tests.support.log import whole_log
from tests.support.service import Service
from tests.support.waiting import PATIENCE

SLEEP = pb.SandboxSpec(project="raced", command=["/bin/sleep", "1000"])
SETTLED = {pb.DESIRED_STATE_RUNNING: "RUNNING", pb.DESIRED_STATE_STOPPED: "STOPPED"}


def chance() -> random.Random:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    return random.Random(seed)


async def gone(client: AsyncClient, service: Service) -> None:
    """Deletes everything, and nothing of it is left."""
    names = [one.sandbox_id async for one in client.list()]
    await asyncio.gather(*(client.delete(name) for name in names))
    await asyncio.gather(*(client.wait_until(name, "TERMINATED", timeout=60 * PATIENCE) for name in names))
    assert service.sandboxes() == []


@pytest.mark.fault(8)
@pytest.mark.slow
async def test_of_mutations_raced_at_random_the_last_acknowledged_holds(make_service: Callable[..., Service]) -> None:
    service, choose = make_service().start(), chance()
    told: dict[int, int] = {}

    def heard(sandbox: pb.Sandbox) -> int:
        generation = sandbox.status.generation
        assert told.setdefault(generation, sandbox.desired_state) == sandbox.desired_state
        return generation

    async with AsyncClient(service.address, timeout=60 * PATIENCE) as client:
        await client.create("raced", sandbox_id="raced", spec=SLEEP)

        async def caller(name: str, mutations: int) -> int:
            last = 0
            for number in range(mutations):
                kind = choose.randrange(3)
                if kind == 0:
                    made = await client.start("raced")
                elif kind == 1:
                    made = await client.stop("raced")
                else:
                    made = await client.update_env("raced", set={name: str(number)})
                # The answers to one caller never go back.
                assert heard(made) >= last
                last = heard(made)
            return last

        last = max(await asyncio.gather(*(caller(f"CALLER_{number}", 20) for number in range(8))))
        now = await client.get("raced")
        assert (now.status.generation, now.desired_state) == (last, told[last])
        await client.wait_until("raced", SETTLED[told[last]], generation=last, timeout=60 * PATIENCE)

        async def late(name: str) -> int:
            with contextlib.suppress(errors.FailedPrecondition):
                return await caller(name, 5)
            return 0

        deleted, *others = await asyncio.gather(
            client.delete("raced"), *(late(f"LATE_{number}") for number in range(8))
        )
        assert heard(deleted) == max(told) >= max(others)
        assert deleted.desired_state == pb.DESIRED_STATE_DELETED
        await client.wait_until("raced", "TERMINATED", timeout=60 * PATIENCE)
    assert service.sandboxes() == []


@pytest.mark.fault(9)
@pytest.mark.parametrize("count", [40, 200])
@pytest.mark.slow
async def test_a_create_that_its_caller_leaves_is_all_or_nothing(
    make_service: Callable[..., Service], count: int
) -> None:
    service, choose = make_service("--local-isolation", "none").start(), chance()
    requests = [
        pb.CreateSandboxRequest(sandbox_id=f"left-{number}", request_id=str(uuid.uuid4()), spec=SLEEP)
        for number in range(count)
    ]
    async with (
        AsyncClient(service.address, timeout=90 * PATIENCE) as client,
        grpc.aio.insecure_channel(service.address) as channel,
    ):
        stub = sandbox_pb2_grpc.SandboxServiceStub(channel)

        async def leave(number: int) -> None:
            moment = choose.uniform(0, 0.02)
            call = stub.CreateSandbox(requests[number], timeout=moment if number % 2 else None)
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
                if number % 2 == 0:
                    await asyncio.sleep(moment)
                    call.cancel()
                await call

        for first in range(0, count, 10):
            await asyncio.gather(*(leave(number) for number in range(first, first + 10)))
        made = {one.sandbox_id: one.uid async for one in client.list()}
        answers = await asyncio.gather(*(stub.CreateSandbox(one) for one in requests))
        uids = {one.sandbox.sandbox_id: one.sandbox.uid for one in answers}
        assert len(uids) == count
        assert made.items() <= uids.items()
        assert {one.sandbox_id: one.uid async for one in client.list()} == uids
        await asyncio.gather(*(client.wait_until(name, "RUNNING", timeout=90 * PATIENCE) for name in uids))
        log = await whole_log(client, (await client.page()).sequence)
        assert {(one.sandbox_id, one.uid) for one in log} == set(uids.items())
        await gone(client, service)
