"""Every replica serves execs, those of namespaces that another replica holds and observes as well."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from sandbox.v1 import access_pb2 as pb
from sandbox_server.domain.phase import Phase

from tests.support.replicas import PACE as USUAL
from tests.support.replicas import Replica, Replicas
from tests.support.scripted import lose_node
from tests.support.waiting import PATIENCE
from tests.support.working import Printed, Worker

PACE = dataclasses.replace(USUAL, access_within=60)
"""A test that waited for the end of `access_within` would be seen to."""
PODS, POD = "api/v1/namespaces/a/pods", "box-0"


@pytest.fixture
async def workers(replicas: Replicas) -> AsyncIterator[tuple[Worker, Worker]]:
    """At the replica that holds the namespace of the sandbox, and at one that does not."""
    two = [await replicas.start(base_pace=PACE) for _ in range(2)]
    await replicas.until(replicas.shared)
    await two[0].create("a", "box")
    for replica in two:
        await replica.settled("a", "box", Phase.RUNNING)
    async with AsyncExitStack() as opened:

        async def worker(replica: Replica) -> Worker:
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{replica.running.port}")
            return Worker(await opened.enter_async_context(channel), "box", "a")

        two.sort(key=lambda one: "a" not in one.held())
        yield await worker(two[0]), await worker(two[1])


@pytest.mark.slow
async def test_exec_that_one_replica_started_is_served_by_the_other(workers: tuple[Worker, Worker]) -> None:
    holder, other = workers
    for first, second in ((holder, other), (other, holder)):
        started = await first.shell("read -r line; echo $line; exit 3", stdin=True)
        assert await second.write(started, (0, b"typed\n"), eof=True) == 6
        printed = await second.follow(started)
        assert (printed.incarnation, printed.out) == (started.incarnation, b"typed\n")
        assert printed.exited == pb.ExecExited(code=3, reason=pb.EXEC_EXIT_REASON_EXIT)
        assert set(await first.ids()) == set(await second.ids())


@pytest.mark.fault(91)
@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda api: api.restart_container("a", POD), pb.EXEC_EXIT_REASON_POD_REPLACED),
        (lambda api: api.restart_container("a", POD, "OOMKilled"), pb.EXEC_EXIT_REASON_OUT_OF_MEMORY),
        (lambda api: lose_node(api, PODS, POD), pb.EXEC_EXIT_REASON_NODE_LOST),
    ],
    ids=["restart", "out-of-memory", "node-lost"],
)
@pytest.mark.slow
async def test_end_of_the_incarnation_is_learnt_by_every_replica_at_once(
    workers: tuple[Worker, Worker], replicas: Replicas, end: Callable[[Any], None], reason: Any
) -> None:
    # The connections say nothing of it.
    replicas.api.kubelet.gone = True
    started = await workers[0].shell("trap '' TERM; echo up; while :; do sleep 0.1; done")
    printed = [Printed(), Printed()]
    following = [asyncio.create_task(worker.follow(started, one)) for worker, one in zip(workers, printed, strict=True)]
    await replicas.until(lambda: all(one.out == b"up\n" for one in printed))
    began = time.monotonic()
    end(replicas.api)
    await asyncio.wait_for(asyncio.gather(*following), 20 * PATIENCE)
    # Far less than the time for which an answer of a program is awaited.
    assert time.monotonic() - began < PACE.access_within / 2
    assert [one.exited for one in printed] == [pb.ExecExited(reason=reason)] * 2
    for worker in workers:
        later = await worker.get(started)
        assert (later.state, later.exited.reason) == (pb.EXEC_STATE_LOST, reason)
