"""Watches whose callers read nothing: what the service keeps for them, what others notice, and how they go on."""

import asyncio
import base64
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import psutil
import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import sandbox_pb2_grpc
from sandbox_client import AsyncClient

from tests.support import samples
from tests.support.ports import free_port
from tests.support.service import Service
from tests.support.waiting import PATIENCE

STALLED = 50
EVENTS = 1000
MOST = 32 * 2**20
"""Bytes that the service may grow by. What it would keep for each stalled watch by itself is three times as much."""


@pytest.mark.slow
@pytest.mark.fault(42)
async def test_watches_that_nobody_reads_cost_bounded_memory_delay_nobody_and_miss_nothing(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    # The cluster is never reached, so that the log has mutations alone.
    kubeconfig = samples.kubeconfig(tmp_path, free_port())
    keys = base64.b64encode(b"k" * 32).decode()
    flags = ("--engine", "kubernetes", "--kubeconfig", str(kubeconfig), "--encryption-keys", keys)
    service = make_service(*flags).start()
    assert service.process is not None
    process = psutil.Process(service.process.pid)
    labels = {f"label-{number}": "x" * 60 for number in range(20)}
    async with AsyncClient(service.address) as client, grpc.aio.insecure_channel(service.address) as channel:
        stub = sandbox_pb2_grpc.SandboxServiceStub(channel)  # type: ignore[no-untyped-call]
        await client.create("stalled", sandbox_id="stalled", labels=labels)
        stalled = [stub.WatchStatus(pb.WatchStatusRequest(after_sequence=1)) for _ in range(STALLED)]
        heard: dict[int, float] = {}

        async def listen() -> None:
            async for event in client.watch(after_sequence=1):
                heard[event.sequence] = time.monotonic()

        listening = asyncio.create_task(listen())
        before = process.memory_info().rss
        answered: dict[int, float] = {}
        for number in range(EVENTS):
            made = await client.update_env("stalled", set={"N": str(number)})
            answered[made.status.sequence] = time.monotonic()
        last = max(answered)
        async with asyncio.timeout(10 * PATIENCE):
            while last not in heard:
                await asyncio.sleep(0.01)
        listening.cancel()
        assert process.memory_info().rss - before < MOST
        assert statistics.median(heard[one] - answered[one] for one in answered) < 0.1 * PATIENCE
        for one in stalled[::10]:
            sequences = []
            async with asyncio.timeout(20 * PATIENCE):
                while not sequences or sequences[-1] < last:
                    answer = await one.read()
                    if answer.WhichOneof("event") == "status":
                        sequences.append(answer.sequence)
            assert sequences == list(range(2, last + 1))
        for one in stalled:
            one.cancel()
