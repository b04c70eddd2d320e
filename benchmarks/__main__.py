"""Measures everything, prints the table and keeps it in `benchmarks/README.md`. `python -m benchmarks [NAME...]`."""

import asyncio
import contextlib
import dataclasses
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import grpc
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server import store
from sandbox_server.domain.event import Cause, Event, Kind
from sandbox_server.domain.phase import DesiredState, Phase
from sandbox_server.domain.sandbox import Addresses
from sandbox_server.store import connection, rows, schema, tables
from sqlmodel import Session, SQLModel

from benchmarks import behind, content, events, load, servers, waits
from benchmarks.report import Figure, report

MUTATION = Cause(Kind.MUTATION, "default")
PAUSE = 0.05
"""Seconds before each of the turns: by then what the last one set off is done."""


def get_status() -> Iterator[Figure]:
    """Turns of both, so that what else the machine does meets both."""
    mine: list[float] = []
    bare: list[float] = []
    with load.server("watch", "100") as subject, load.server("echo") as baseline:
        request = pb.GetStatusRequest(sandbox_id="bench-7").SerializeToString()
        for _ in range(5):
            bare.append(load.run(load.unary(baseline, "GetStatus", request, 6000, 16))[0])
            mine.append(load.run(load.unary(subject, "GetStatus", request, 6000, 16))[0])
    yield Figure("GetStatus, server CPU per call; echo", statistics.median(mine), statistics.median(bare), "µs", 1.15)


def create() -> Iterator[Figure]:
    """One create at a time, a bare commit and an echo, in turns: each after the same pause, on the same machine."""
    flags = ("--local-command", "/bin/sleep 600", "--local-isolation", "none")
    with load.server("echo") as baseline, load.service(*flags) as subject, _bare_session() as session:
        subject.serving()
        times = load.run(_creates(subject, baseline, session, 150))
    created, committed, echoed = (statistics.median(one) * 1e3 for one in times)
    yield Figure("CreateSandbox answered, p50; one commit and an echo", created, committed + echoed, "ms", 1.3)


async def _creates(
    subject: load.Process, baseline: load.Process, session: Session, count: int
) -> tuple[list[float], list[float], list[float]]:
    """Seconds of each create, of each bare commit of one row and of each echo."""
    times: tuple[list[float], list[float], list[float]] = ([], [], [])
    async with grpc.aio.insecure_channel(subject.address) as mine, grpc.aio.insecure_channel(baseline.address) as bare:
        call = mine.unary_unary(f"{load.SERVICE}/CreateSandbox")
        delete = mine.unary_unary(f"{load.SERVICE}/Delete")
        echo = bare.unary_unary(f"{load.SERVICE}/GetStatus")

        async def timed(into: list[float], act: Callable[[], Awaitable[object]]) -> None:
            await asyncio.sleep(PAUSE)
            began = time.perf_counter()
            await act()
            into.append(time.perf_counter() - began)

        async def commit(row: SQLModel) -> None:
            session.add(row)
            session.commit()

        for number in range(count):
            request = pb.CreateSandboxRequest(
                request_id=str(uuid.uuid4()), sandbox_id=f"b-{number}", spec=pb.SandboxSpec(project="b"), env={"A": "1"}
            ).SerializeToString()
            row = _rows(number)[0]
            await timed(times[0], lambda: call(request))  # noqa: B023
            await timed(times[1], lambda: commit(row))  # noqa: B023
            await timed(times[2], lambda: echo(request))  # noqa: B023
            await delete(pb.DeleteRequest(sandbox_id=f"b-{number}").SerializeToString())
    return times


@contextlib.contextmanager
def _bare_session() -> Iterator[Session]:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        url = f"sqlite:///{folder}/bare.db"
        schema.check(url)
        engine = connection.connect(url, writes=True, busy_timeout=1)
        with Session(engine) as session:
            yield session
        engine.dispose()


def _rows(number: int) -> list[SQLModel]:
    """What a create writes."""
    columns = rows.columns(Event(number + 1, servers.accepted(number), MUTATION))
    columns |= {"request_id": str(number), "fingerprint": "f" * 73, "env": b"e" * 40, "sandbox_uid": columns["uid"]}
    kinds = (tables.SandboxRow, tables.StatusEventRow, tables.RequestRow)
    return [kind(**{name: columns[name] for name in kind.model_fields if name in columns}) for kind in kinds]


WAITING = 64
"""Mutations that wait at once."""


def group_commit() -> Iterator[Figure]:
    """The store alone, 64 mutations waiting at once, each a create with a request id: a sandbox, an event, a request.

    Against a bare commit of those three rows each, and against the store itself when it may not group.
    """
    grouped = load.run(_mutations(store.store.GROUP_MOST, 6000))
    with _bare_session() as session:
        began = time.perf_counter()
        for number in range(400):
            session.add_all(_rows(number))
            session.commit()
        bare = 400 / (time.perf_counter() - began)
    yield Figure("durable creates, 64 waiting; a bare commit each", grouped, bare, "/s", 10, least=True)
    alone = load.run(_mutations(1, 800))
    yield Figure("durable creates, 64 waiting; the store's own commit each", grouped, alone, "/s", 10, least=True)


async def _mutations(group_most: int, count: int) -> float:
    """Mutations that make new sandboxes, made before the clock starts, each with a request id."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        opened = store.Store(f"sqlite:///{folder}/a.db", store.Cipher([b"k" * 32]), group_most=group_most)
        await opened.open(lambda _committed: None)
        writes = [store.Write(servers.accepted(number), 0, MUTATION, {"A": "1"}) for number in range(count)]

        async def caller(first: int) -> None:
            for number in range(first, count, WAITING):
                write = writes[number]
                await opened.write(lambda _: write, store.Request("default", str(number), b"payload"))  # noqa: B023

        began = time.perf_counter()
        await asyncio.gather(*(caller(first) for first in range(WAITING)))
        took = time.perf_counter() - began
        await opened.close()
    return count / took


BEGINS = 2
"""Messages with which a watch of one sandbox begins: its status, and that the snapshot is complete."""


def fan_out() -> Iterator[Figure]:
    """One sandbox's changes to a thousand watchers."""
    with load.server("watch", "100") as subject, load.server("fanout") as baseline:
        mine, bare = load.run(_deliveries({subject: BEGINS, baseline: 1}, 1000, 40))
    yield Figure("WatchStatus, CPU per event to 1,000 watchers; bare fan-out", mine, bare, "µs", 1.2)


async def _deliveries(processes: dict[load.Process, int], count: int, events: int) -> list[float]:
    """Microseconds of CPU per delivery of each, in turns; each with the number of messages with which a watch begins."""
    watchers = [load.Watchers(one, count, first) for one, first in processes.items()]
    for one in watchers:
        await one.open()
    used = [0.0] * len(processes)
    for _ in range(events):
        for number, process in enumerate(processes):
            before = process.cpu()
            await watchers[number].event(signal.SIGUSR1)
            used[number] += process.cpu() - before
    for one in watchers:
        await one.close()
    return [seconds / events / count * 1e6 for seconds in used]


def ten_thousand_watchers() -> Iterator[Figure]:
    """All open at once: memory of each, and when the last one is served."""
    outcomes = []
    for words, first in ((("watch", "100"), BEGINS), (("fanout",), 1)):
        with load.server(*words) as process:
            outcomes.append(load.run(_crowd(process, 10_000, first)))
    (mine, kib, failed), (bare, bare_kib, _) = outcomes
    yield Figure("10,000 watchers, the last one served; bare fan-out", mine * 1e3, bare * 1e3, "ms", 1.3)
    yield Figure("10,000 watchers, memory of each; 30 KiB", kib, 30, "KiB", 1)
    yield Figure("(the bare fan-out's; 30 KiB)", bare_kib, 30, "KiB", 1)
    yield Figure("10,000 watchers, cancelled; plus one", failed + 1, 1, "", 1)


async def _crowd(process: load.Process, count: int, first: int) -> tuple[float, float, int]:
    before = process.memory()
    watchers = load.Watchers(process, count, first)
    await watchers.open()
    each = (process.memory() - before) / count / 1024
    times = [await watchers.event(signal.SIGUSR1) for _ in range(7)]
    failed = watchers.failed
    await watchers.close()
    return statistics.median(times[1:]), each, failed


def ten_thousand_sandboxes() -> Iterator[Figure]:
    """In the store of a service that starts: until it serves, its memory, and what an event costs."""
    started, memory = {}, {}
    for count in (1, 10_000):
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            load.run(_fill(Path(folder), count))
            began = time.monotonic()
            with load.service("--local-isolation", "none", folder=Path(folder)) as process:
                process.serving()
                started[count] = time.monotonic() - began
                time.sleep(4)
                memory[count] = process.memory()
    yield Figure("10,000 sandboxes, start until serving; 5 s", started[10_000], 5, "s", 1)
    yield Figure("10,000 sandboxes, memory of each; 15 KiB", (memory[10_000] - memory[1]) / 10_000 / 1024, 15, "KiB", 1)
    with load.server("watch", "10000") as many, load.server("watch", "100") as few:
        mine, bare = load.run(_deliveries({many: BEGINS, few: BEGINS}, 100, 200))
    yield Figure("CPU per event at 10,000 sandboxes; at 100", mine, bare, "µs", 1.1)


async def _fill(folder: Path, count: int) -> None:
    cipher = store.Cipher.from_file(folder / "encryption.key", create=True)
    opened = store.Store(f"sqlite:///{folder}/sandbox.db", cipher)
    await opened.open(lambda _committed: None)
    stopped = dataclasses.replace(servers.sandbox(0).status, phase=Phase.STOPPED)

    def write(number: int) -> store.Write:
        made = dataclasses.replace(
            servers.sandbox(number),
            desired=DesiredState.STOPPED,
            status=stopped,
            volume_uid="",
            addresses=Addresses(dns_name="127.0.0.1", public_url="", ttyd_url="", ports=(20000 + number,)),
        )
        return store.Write(made, 0, MUTATION, {"A": "1"})

    await asyncio.gather(*(opened.write(lambda _, number=number: write(number)) for number in range(count)))  # type: ignore[misc]
    await opened.close()


ALL: dict[str, Callable[[], Iterator[Figure]]] = {
    one.__name__: one
    for one in (
        get_status,
        create,
        group_commit,
        fan_out,
        ten_thousand_watchers,
        ten_thousand_sandboxes,
        behind.watches_behind,
        events.pages_of_events,
        waits.waits_for_a_phase,
        content.content,
    )
}


if __name__ == "__main__":
    report(ALL, sys.argv[1:], "table")
