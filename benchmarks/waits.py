"""A thousand callers that wait for a phase by WaitForPhase, against as many watches: what both cost while nothing happens."""

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import grpc
from sandbox.v1 import sandbox_pb2 as pb

from benchmarks import behind, load
from benchmarks.report import Figure

CALLERS = behind.WATCHES
MEASURED = 60.0
"""Seconds: four heartbeats of each watch, and two calls of each waiting caller."""


def waits_for_a_phase() -> Iterator[Figure]:
    """Each for a sandbox of its own, which is STOPPED and stays so."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        load.run(behind.fill(Path(folder)))
        with load.service("--local-isolation", "none", "--resync", "3600", folder=Path(folder)) as process:
            process.serving()
            load.run(asyncio.sleep(4))
            waits, watches = (load.run(_cpu(process, caller)) for caller in (_wait, _watch))
    yield Figure("WaitForPhase by 1,000 callers, CPU a minute; as many watches", waits * 1e3, watches * 1e3, "ms", 1.2)


async def _cpu(process: load.Process, caller: Callable[[grpc.aio.Channel, str], Coroutine[None, None, None]]) -> float:
    """Seconds of CPU that the service used once every caller has begun."""
    async with contextlib.AsyncExitStack() as opened:
        channels = [
            await opened.enter_async_context(
                grpc.aio.insecure_channel(process.address, (("grpc.use_local_subchannel_pool", 1),))
            )
            for _ in range(-(-CALLERS // load.STREAMS))
        ]
        tasks = [
            asyncio.create_task(caller(channels[number // load.STREAMS], f"bench-{number}"))
            for number in range(CALLERS)
        ]
        await asyncio.sleep(10)
        before = process.cpu()
        await asyncio.sleep(MEASURED)
        used = process.cpu() - before
        assert not any(one.done() for one in tasks)
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return used


async def _wait(channel: grpc.aio.Channel, name: str) -> None:
    request = pb.WaitForPhaseRequest(sandbox_id=name, phase=pb.PHASE_RUNNING).SerializeToString()
    call = channel.unary_unary(f"{load.SERVICE}/WaitForPhase", response_deserializer=pb.WaitForPhaseResponse.FromString)
    while (await call(request)).outcome == pb.WAIT_OUTCOME_PENDING:
        pass


async def _watch(channel: grpc.aio.Channel, name: str) -> None:
    request = pb.WatchStatusRequest(sandbox_ids=[name]).SerializeToString()
    call = channel.unary_stream(f"{load.SERVICE}/WatchStatus")(request)
    while await call.read() is not grpc.aio.EOF:
        pass
