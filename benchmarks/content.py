"""The content of a file of 256 MiB, written to a sandbox and read from it, against bare streams of the same messages."""

import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
from sandbox.v1 import access_pb2 as pb
from sandbox.v1 import sandbox_pb2
from sandbox_server.access import files
from sandbox_server.rpc.files import DATA_MOST

from benchmarks import load
from benchmarks.report import Figure

SIZE = 256 << 20
TURNS = 9
READ = files.CHUNK
ACCESS = "/sandbox.v1.SandboxAccess"
NAME = "bench-files"


def content() -> Iterator[Figure]:
    """In turns, each time one stream. The sandbox is on a file system in memory, where there is one: the disk is not what
    is measured."""
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-", dir=memory if memory.is_dir() else None) as folder,
        load.server("content") as baseline,
        load.service("--local-command", "/bin/sleep 600", "--local-isolation", "none", folder=Path(folder)) as subject,
    ):
        subject.serving()
        written, read = load.run(_measured(subject, baseline))
    for what, (mine, bare) in (("WriteFile", written), ("ReadFile", read)):
        name = f"{what} of 256 MiB; a bare stream of the same messages"
        yield Figure(name, statistics.median(mine), statistics.median(bare), "MB/s", 0.5, least=True)


Rates = tuple[list[float], list[float]]


async def _measured(subject: load.Process, baseline: load.Process) -> tuple[Rates, Rates]:
    written: Rates = ([], [])
    read: Rates = ([], [])
    async with grpc.aio.insecure_channel(subject.address) as mine, grpc.aio.insecure_channel(baseline.address) as bare:
        create = mine.unary_unary(f"{load.SERVICE}/CreateSandbox")
        spec = sandbox_pb2.SandboxSpec(project="bench")
        await create(sandbox_pb2.CreateSandboxRequest(sandbox_id=NAME, spec=spec).SerializeToString())
        wait = sandbox_pb2.WaitForPhaseRequest(sandbox_id=NAME, phase=sandbox_pb2.PHASE_RUNNING)
        await mine.unary_unary(f"{load.SERVICE}/WaitForPhase")(wait.SerializeToString())
        for _ in range(TURNS):
            for number, channel in enumerate((bare, mine)):
                rates = 1 - number
                began = time.perf_counter()
                await channel.stream_unary(f"{ACCESS}/WriteFile")(_parts())
                written[rates].append(SIZE / 1e6 / (time.perf_counter() - began))
                began = time.perf_counter()
                request = pb.ReadFileRequest(sandbox_id=NAME, path=b"content").SerializeToString()
                size = 0
                async for message in channel.unary_stream(f"{ACCESS}/ReadFile")(request):
                    size += len(message)
                assert size >= SIZE
                read[rates].append(SIZE / 1e6 / (time.perf_counter() - began))
    return written, read


async def _parts() -> AsyncIterator[bytes]:
    data = pb.WriteFileRequest(data=bytes(DATA_MOST)).SerializeToString()
    first = pb.WriteFileRequest(sandbox_id=NAME, path=b"content", request_id=str(uuid.uuid4()), size=SIZE)
    yield first.SerializeToString()
    for _ in range(SIZE // DATA_MOST):
        yield data
