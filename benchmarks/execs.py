"""Commands in sandboxes of the local engine: `python -m benchmarks.execs [NAME...]`."""

import asyncio
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import psutil
from sandbox.v1 import access_pb2 as pb
from sandbox.v1 import access_pb2_grpc, sandbox_pb2_grpc
from sandbox.v1 import sandbox_pb2 as sandbox

from benchmarks import load
from benchmarks.report import Figure, report

SECONDS = "86399"
"""The sleep that is each sandbox's command, by which its processes are found."""
TURNS = 60
SANDBOXES, EXECS = 20, 200
LINES = 10


@contextmanager
def _service() -> Iterator[load.Process]:
    with load.service("--local-command", f"/bin/sleep {SECONDS}") as process:
        process.serving()
        yield process


@asynccontextmanager
async def _sandboxes(process: load.Process, count: int) -> AsyncIterator[tuple[Any, Any]]:
    """The stubs of both services, with sandboxes `b-0`, `b-1` and so on that run."""
    async with grpc.aio.insecure_channel(process.address) as channel:
        service: Any = sandbox_pb2_grpc.SandboxServiceStub(channel)
        for number in range(count):
            spec = sandbox.SandboxSpec(project="bench")
            request = sandbox.CreateSandboxRequest(request_id=str(uuid.uuid4()), sandbox_id=f"b-{number}", spec=spec)
            await service.CreateSandbox(request)
        for number in range(count):
            await service.WaitForPhase(
                sandbox.WaitForPhaseRequest(sandbox_id=f"b-{number}", phase=sandbox.PHASE_RUNNING)
            )
        access: Any = access_pb2_grpc.SandboxAccessStub(channel)
        yield access, service
        for number in range(count):
            await service.Delete(sandbox.DeleteRequest(sandbox_id=f"b-{number}"))
        for number in range(count):
            gone = sandbox.WaitForPhaseRequest(sandbox_id=f"b-{number}", phase=sandbox.PHASE_TERMINATED)
            await service.WaitForPhase(gone)


async def _start(access: Any, sandbox_id: str, *command: str, **fields: Any) -> str:
    request = pb.StartExecRequest(sandbox_id=sandbox_id, request_id=str(uuid.uuid4()), command=command, **fields)
    return str((await access.StartExec(request)).exec.exec_id)


async def _end(access: Any, sandbox_id: str, exec_id: str) -> int:
    """Follows an exec to its end, and returns how many bytes it has printed."""
    length = 0
    async for one in access.AttachExec(pb.AttachExecRequest(sandbox_id=sandbox_id, exec_id=exec_id)):
        length += len(one.output.data)
    return length


def round_trip() -> Iterator[Figure]:
    """Starts `true` and follows it to its end, in turns with an nsenter that starts it in the same namespaces."""
    with _service() as process:
        mine, bare = load.run(_round_trips(process))
    yield Figure("exec of true, started and followed to its end, p50; nsenter", mine, bare, "ms", 20)


async def _round_trips(process: load.Process) -> tuple[float, float]:
    mine, bare = [], []
    async with _sandboxes(process, 1) as (access, _):
        inner = max(
            one.pid for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["/bin/sleep", SECONDS]
        )
        words = ("nsenter", "-t", str(inner), "-m", "-u", "-i", "-p", "/bin/true")
        for _ in range(TURNS):
            began = time.perf_counter()
            await _end(access, "b-0", await _start(access, "b-0", "true"))
            mine.append(time.perf_counter() - began)
            began = time.perf_counter()
            subprocess.run(words, check=True)
            bare.append(time.perf_counter() - began)
    return statistics.median(mine) * 1e3, statistics.median(bare) * 1e3


def key_echoed() -> Iterator[Figure]:
    """A key that is typed on an open stream until its echo arrives on another, on a terminal of `cat`."""
    with _service() as process:
        p50, p99 = load.run(_keys(process))
    yield Figure("key typed until its echo arrives, p50; 10 ms", p50, 10, "ms", 1)
    yield Figure("(p99; 50 ms)", p99, 50, "ms", 1)


async def _keys(process: load.Process) -> tuple[float, float]:
    times = []
    async with _sandboxes(process, 1) as (access, _):
        exec_id = await _start(access, "b-0", "cat", tty=pb.Terminal(rows=24, cols=80))
        stream = access.AttachExec(pb.AttachExecRequest(sandbox_id="b-0", exec_id=exec_id))
        await stream.read()
        keys = access.WriteStdin()
        for number in range(200):
            began = time.perf_counter()
            await keys.write(pb.WriteStdinRequest(sandbox_id="b-0", exec_id=exec_id, offset=number, data=b"k"))
            await stream.read()
            times.append(time.perf_counter() - began)
            await asyncio.sleep(0.02)
    times = sorted(times[1:])
    return statistics.median(times) * 1e3, times[int(len(times) * 0.99)] * 1e3


def two_hundred_at_once() -> Iterator[Figure]:
    """200 execs in 20 sandboxes, each attached and printing a line a second, with GetStatus asked 50 times a second.

    By `benchmarks.status`, idle and busy: the process here follows 200 execs, and would take its own lag for the service's.
    """
    with _service() as process:
        idle, busy, grown, whole = load.run(_at_once(process))
    yield Figure("200 execs at once in 20 sandboxes, GetStatus p99; idle", busy, idle, "ms", 3)
    yield Figure("memory of the service for them; 64 MiB", grown / 2**20, 64, "MiB", 1)
    yield Figure("of these, with all their output", whole, EXECS, "", 1, least=True)


async def _at_once(process: load.Process) -> tuple[float, float, int, int]:
    script = f"i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); sleep 1; done"
    expected = sum(len(f"line {number}\n") for number in range(LINES))
    async with _sandboxes(process, SANDBOXES) as (access, _), _asking(process) as status_p99:
        idle = await status_p99(5)
        before = process.memory()

        async def one(number: int) -> int:
            name = f"b-{number % SANDBOXES}"
            return await _end(access, name, await _start(access, name, "/bin/sh", "-c", script))

        running = asyncio.gather(*(one(number) for number in range(EXECS)))
        busy, grown = await status_p99(5), process.memory() - before
        whole = sum(length == expected for length in await running)
    return idle, busy, grown, whole


@asynccontextmanager
async def _asking(process: load.Process) -> AsyncIterator[Callable[[float], Awaitable[float]]]:
    """A function that has `benchmarks.status` ask for so many seconds, and returns the p99 in milliseconds."""
    words = (sys.executable, "-m", "benchmarks.status", process.address, "b-0")
    asking = await asyncio.create_subprocess_exec(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    taken, printed = asking.stdin, asking.stdout
    assert taken is not None and printed is not None

    async def p99(seconds: float) -> float:
        taken.write(b"%g\n" % seconds)
        return float(await printed.readline())

    try:
        await p99(1)
        yield p99
    finally:
        taken.close()
        await asking.wait()


ALL: dict[str, Callable[[], Iterator[Figure]]] = {
    one.__name__: one for one in (round_trip, key_echoed, two_hundred_at_once)
}

if __name__ == "__main__":
    report(ALL, sys.argv[1:], "execs table")
