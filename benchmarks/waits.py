"""A thousand callers that wait until their sandbox runs: by WaitForPhase, against opening a watch and reading until it says so."""

import asyncio
import contextlib
import signal
import statistics
from collections.abc import Callable, Coroutine, Iterator

import grpc
from sandbox.v1 import sandbox_pb2 as pb

from benchmarks import load
from benchmarks.report import Figure

CALLERS = 1_000
STARTS = {5.0: 3, 55.0: 2}
"""Seconds that the sandboxes take until they run, and how often each is measured. In the longer time a caller of
WaitForPhase makes two calls, since a call waits for 30 s at most, and a watch has four heartbeats."""


def waits_for_a_phase() -> Iterator[Figure]:
    """Each for a sandbox of its own. All that a caller does is measured, from its first call to its last answer."""
    for seconds, turns in STARTS.items():
        waits: list[float] = []
        watches: list[float] = []
        for _ in range(turns):
            for used, caller in ((waits, _wait), (watches, _watch)):
                with load.server("start", str(CALLERS)) as process:
                    used.append(load.run(_cpu(process, caller, seconds)))
        name = f"WaitForPhase by 1,000 callers, CPU until all run after {seconds:.0f} s; by watches"
        yield Figure(name, statistics.median(waits) * 1e3, statistics.median(watches) * 1e3, "ms", 1.2)


async def _cpu(
    process: load.Process, caller: Callable[[grpc.aio.Channel, str], Coroutine[None, None, None]], seconds: float
) -> float:
    """Seconds of CPU that the service used until every caller had its answer."""
    async with contextlib.AsyncExitStack() as opened:
        channels = [
            await opened.enter_async_context(
                grpc.aio.insecure_channel(process.address, (("grpc.use_local_subchannel_pool", 1),))
            )
            for _ in range(-(-CALLERS // load.STREAMS))
        ]
        for channel in channels:
            await channel.channel_ready()
        before = process.cpu()
        callers = [
            asyncio.create_task(caller(channels[number // load.STREAMS], f"bench-{number}"))
            for number in range(CALLERS)
        ]
        await asyncio.sleep(seconds)
        assert not any(one.done() for one in callers)
        process.popen.send_signal(signal.SIGUSR1)
        await asyncio.gather(*callers)
        return process.cpu() - before


async def _wait(channel: grpc.aio.Channel, name: str) -> None:
    request = pb.WaitForPhaseRequest(sandbox_id=name, phase=pb.PHASE_RUNNING).SerializeToString()
    call = channel.unary_unary(f"{load.SERVICE}/WaitForPhase", response_deserializer=pb.WaitForPhaseResponse.FromString)
    while (await call(request)).outcome == pb.WAIT_OUTCOME_PENDING:
        pass


async def _watch(channel: grpc.aio.Channel, name: str) -> None:
    request = pb.WatchStatusRequest(sandbox_ids=[name]).SerializeToString()
    watch = channel.unary_stream(f"{load.SERVICE}/WatchStatus", response_deserializer=pb.WatchStatusResponse.FromString)
    call = watch(request)
    while (await call.read()).status.phase != pb.PHASE_RUNNING:
        pass
    call.cancel()
