"""Processes to measure and the load on them."""

import asyncio
import contextlib
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sandbox.v1 import sandbox_pb2 as pb

SERVICE = "/sandbox.v1.SandboxService"
STREAMS = 500
"""Watches on one connection."""

T = TypeVar("T")
_RUNNER = asyncio.Runner()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on the one event loop of this process: grpc.aio goes on using the first that it was used on."""
    return _RUNNER.run(main)


def free_port() -> int:
    """A port that is free. Below those that the kernel gives to connections, which could take it before it is used."""
    while True:
        port = random.randrange(30000, 32768)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Process:
    """A server in a process of its own."""

    def __init__(self, popen: subprocess.Popen[bytes], port: int) -> None:
        self.popen = popen
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self._seen = psutil.Process(popen.pid)

    def cpu(self) -> float:
        """Seconds of CPU so far, its threads' included."""
        used = self._seen.cpu_times()
        return float(used.user + used.system)

    def memory(self) -> int:
        """Bytes that are its own."""
        return int(self._seen.memory_full_info().uss)

    def wait(self) -> None:
        """Returns when it accepts calls."""
        with self._channel() as channel:
            grpc.channel_ready_future(channel).result(timeout=60)

    def serving(self) -> None:
        """Returns when its health is SERVING."""
        request = health_pb2.HealthCheckRequest()
        with self._channel() as channel:
            for answer in health_pb2_grpc.HealthStub(channel).Watch(request, wait_for_ready=True, timeout=60):
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return

    def _channel(self) -> grpc.Channel:
        backoff = (("grpc.initial_reconnect_backoff_ms", 20), ("grpc.max_reconnect_backoff_ms", 50))
        return grpc.insecure_channel(self.address, backoff)


@contextlib.contextmanager
def server(*words: str) -> Iterator[Process]:
    """One of `benchmarks.servers`."""
    port = free_port()
    with _process([sys.executable, "-m", "benchmarks.servers", words[0], str(port), *words[1:]], port) as made:
        made.wait()
        yield made


@contextlib.contextmanager
def service(*flags: str, folder: Path | None = None) -> Iterator[Process]:
    """The service itself, on the local engine."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as made:
        command = [sys.executable, "-m", "sandbox_server", "--listen", f"127.0.0.1:{port}", "--log-level", "error"]
        # What is measured is the service; that a process without a probe has to run for a while is no work of it.
        command += ["--data-dir", str(folder or made), "--ready-for", "0", "--access-listen", "", *flags]
        with _process(command, port) as process:
            yield process


@contextlib.contextmanager
def _process(command: list[str], port: int) -> Iterator[Process]:
    popen = subprocess.Popen(command)
    try:
        yield Process(popen, port)
    finally:
        popen.terminate()
        popen.wait(timeout=60)


async def unary(process: Process, method: str, request: bytes, calls: int, at_once: int) -> tuple[float, float]:
    """Microseconds of the server's CPU per call, and the median seconds of a call."""
    async with grpc.aio.insecure_channel(process.address) as channel:
        call = channel.unary_unary(f"{SERVICE}/{method}")
        times: list[float] = []

        async def worker(count: int) -> None:
            for _ in range(count):
                began = time.perf_counter()
                await call(request)
                times.append(time.perf_counter() - began)

        await asyncio.gather(*(worker(calls // 10 // at_once) for _ in range(at_once)))
        times.clear()
        before = process.cpu()
        await asyncio.gather(*(worker(calls // at_once) for _ in range(at_once)))
        return (process.cpu() - before) / len(times) * 1e6, statistics.median(times)


class Watchers:
    """Many watches of one project, open on shared connections. `first`: the messages with which each begins."""

    def __init__(self, process: Process, count: int, first: int) -> None:
        self._process = process
        self._count = count
        self._first = first
        self._channels = [
            grpc.aio.insecure_channel(process.address, (("grpc.use_local_subchannel_pool", 1),))
            for _ in range(-(-count // STREAMS))
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self.received = 0
        self.failed = 0
        self._target = 0
        self._reached = asyncio.Event()

    async def open(self) -> None:
        """Returns when each has begun: what is still under way would be taken for the first event."""
        request = pb.WatchStatusRequest(project="bench").SerializeToString()
        self._expect(self._count * self._first)
        for number in range(self._count):
            channel = self._channels[number // STREAMS]
            self._tasks.append(asyncio.create_task(self._read(channel, request)))
        await self._reached.wait()
        await asyncio.sleep(1)

    def _expect(self, more: int) -> None:
        self._target = self.received + more
        self._reached.clear()

    async def _read(self, channel: grpc.aio.Channel, request: bytes) -> None:
        call = channel.unary_stream(f"{SERVICE}/WatchStatus")(request)
        try:
            while await call.read() is not grpc.aio.EOF:
                self._count_one()
        except grpc.aio.AioRpcError:
            self.failed += 1
            self._count_one()

    def _count_one(self) -> None:
        self.received += 1
        if self.received >= self._target:
            self._reached.set()

    async def event(self, signal_number: int) -> float:
        """Has one event sent; seconds until the last watcher has it."""
        self._expect(self._count)
        began = time.perf_counter()
        self._process.popen.send_signal(signal_number)
        await asyncio.wait_for(self._reached.wait(), 120)
        return time.perf_counter() - began

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in self._channels:
            await channel.close()
