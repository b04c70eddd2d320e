"""A thousand watches that resume thirty thousand changes behind, and how long GetStatus takes while they catch up.

`python -m benchmarks.behind ADDRESS` asks for one status after another until its standard input ends, and prints the
seconds that each answer took: in a process of its own, which the watches do not keep busy.
"""

import asyncio
import contextlib
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import grpc
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server import store
from sandbox_server.domain.event import OBSERVED
from sandbox_server.domain.phase import DesiredState, Phase
from sandbox_server.domain.sandbox import Addresses, Key

from benchmarks import load, servers
from benchmarks.report import Figure

WATCHES = 1_000
CHANGES = 30
"""Of the one sandbox that a watch is about: all watches together are 30,000 behind."""
IDLE = 3.0
"""Seconds for which an idle service is measured."""


def watches_behind() -> Iterator[Figure]:
    """Each of a project of its own, against one watch of all that gets what they get together: as many messages.

    All resume from before the first change, at a service that has just started and has none of it in memory.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        load.run(fill(Path(folder)))
        with load.service("--local-isolation", "none", folder=Path(folder)) as process:
            process.serving()
            time.sleep(4)
            one, all_of_them, idle, busy = load.run(_measured(process))
    yield Figure("1,000 watches 30,000 changes behind, the last one served; one of all", all_of_them, one, "s", 3)
    yield Figure("GetStatus while those watches catch up, p99; idle", busy * 1e3, idle * 1e3, "ms", 3)


async def fill(folder: Path) -> None:
    """Makes the stopped sandboxes, with their changes."""
    cipher = store.Cipher.from_file(folder / "encryption.key", create=True)
    opened = store.Store(f"sqlite:///{folder}/sandbox.db", cipher)
    await opened.open(lambda _committed: None)

    def write(number: int, change: int, reader: store.Reader) -> store.Write:
        if change:
            last = reader.last(Key("default", f"bench-{number}"))
            assert last is not None
            status = dataclasses.replace(last.sandbox.status, message=f"change {change}")
            return store.Write(dataclasses.replace(last.sandbox, status=status), last.sequence, OBSERVED)
        made = servers.sandbox(number, f"project-{number}")
        return store.Write(
            dataclasses.replace(
                made,
                desired=DesiredState.STOPPED,
                status=dataclasses.replace(made.status, phase=Phase.STOPPED),
                volume_uid="",
                addresses=Addresses(dns_name="127.0.0.1", public_url="", ttyd_url="", ports=(20000 + number,)),
            ),
            0,
            OBSERVED,
            {"A": "1"},
        )

    for change in range(CHANGES):
        writes = (
            opened.write(lambda reader, number=number, change=change: write(number, change, reader))  # type: ignore[misc]
            for number in range(WATCHES)
        )
        await asyncio.gather(*writes)
    await opened.close()


async def _measured(process: load.Process) -> tuple[float, float, float, float]:
    """Four times in seconds: until one watch of everything has all its messages; until the last of many watches has its own;
    the p99 of GetStatus while the service is idle; and the same while the many watches catch up."""
    async with _asking(process.address) as idle:
        await asyncio.sleep(IDLE)
    one = await _served(process, [""], WATCHES * CHANGES)
    async with _asking(process.address) as busy:
        last = await _served(process, [f"project-{number}" for number in range(WATCHES)], CHANGES)
    return one, last, _p99(idle), _p99(busy)


async def _served(process: load.Process, projects: Sequence[str], changes: int) -> float:
    """Seconds until a watch of each project has so many changes."""
    async with contextlib.AsyncExitStack() as opened:
        channels = [
            await opened.enter_async_context(
                grpc.aio.insecure_channel(process.address, (("grpc.use_local_subchannel_pool", 1),))
            )
            for _ in range(-(-len(projects) // load.STREAMS))
        ]
        for channel in channels:
            await channel.channel_ready()
        began = time.perf_counter()
        watches = (_watch(channels[index // load.STREAMS], one, changes) for index, one in enumerate(projects))
        await asyncio.gather(*watches)
        return time.perf_counter() - began


async def _watch(channel: grpc.aio.Channel, project: str, changes: int) -> None:
    request = pb.WatchStatusRequest(project=project, after_sequence=0).SerializeToString()
    call = channel.unary_stream(f"{load.SERVICE}/WatchStatus")(request)
    for _ in range(changes):
        assert await call.read() is not grpc.aio.EOF
    call.cancel()


@contextlib.asynccontextmanager
async def _asking(address: str) -> AsyncIterator[list[float]]:
    """Asks for a status all the time, and has in the end what each answer took."""
    times: list[float] = []
    pipe = asyncio.subprocess.PIPE
    asking = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.behind", address, stdin=pipe, stdout=pipe
    )
    assert asking.stdout is not None
    await asking.stdout.readline()
    yield times
    answered, _ = await asking.communicate(b"")
    times += json.loads(answered)


def _p99(times: list[float]) -> float:
    return sorted(times)[len(times) * 99 // 100]


async def _ask(address: str) -> list[float]:
    times: list[float] = []
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    request = pb.GetStatusRequest(sandbox_id="bench-0").SerializeToString()
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(f"{load.SERVICE}/GetStatus")
        await call(request)
        print(flush=True)
        while not ended.done():
            began = time.perf_counter()
            await call(request)
            times.append(time.perf_counter() - began)
    return times


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_ask(sys.argv[1]))))
