"""Pages of the history, out of a million events and out of a thousand."""

import contextlib
import dataclasses
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server import store
from sandbox_server.domain.event import OBSERVED, Cause, Kind
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.store import rows

from benchmarks import load, servers
from benchmarks.report import Figure

LONG = 1_000_000
SHORT = 1_000
SANDBOXES = 4
"""In the short history, of as many projects. The long one has as many times more of them as it has events, in 20 projects."""
CALLS = 150
SCOPES: Mapping[str, Mapping[str, Any]] = {
    "of everything": {},
    "of a project": {"project": "project-1"},
    "of a sandbox": {"sandbox_id": "bench-1"},
}


def pages_of_events() -> Iterator[Figure]:
    """A page of 100 at random places of the history, in both orders, of each scope."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        places = {count: Path(folder) / str(count) for count in (SHORT, LONG)}
        for count, place in places.items():
            load.run(_fill(place, count))
        with contextlib.ExitStack() as opened:
            addresses = {
                count: opened.enter_context(load.service("--local-isolation", "none", folder=place))
                for count, place in places.items()
            }
            for process in addresses.values():
                process.serving()
            times = load.run(_times({count: process.address for count, process in addresses.items()}))
    for name in SCOPES:
        yield Figure(
            f"ListEvents, a page of 100 {name} in {LONG:,} events; in {SHORT:,}",
            statistics.median(times[LONG, name]) * 1e3,
            statistics.median(times[SHORT, name]) * 1e3,
            "ms",
            3,
        )


async def _fill(folder: Path, count: int) -> None:
    """Makes a history of so many events, all but the first of them by copying it."""
    folder.mkdir()
    cipher = store.Cipher.from_file(folder / "encryption.key", create=True)
    opened = store.Store(f"sqlite:///{folder}/sandbox.db", cipher)
    await opened.open(lambda _committed: None)
    made = servers.sandbox(0, "project-0")
    # What has ended is not taken over by the service that starts.
    ended = dataclasses.replace(made.status, phase=Phase.TERMINATED, reason=Reason.DELETED)
    made = dataclasses.replace(made, desired=DesiredState.DELETED, status=ended)
    event = await opened.write(lambda _: store.Write(made, 0, Cause(Kind.MUTATION, "default"), {"A": "1"}))
    await opened.close()
    columns = rows.columns(event) | {"cause": OBSERVED.kind.value}
    sandboxes = SANDBOXES * count // SHORT
    projects = min(sandboxes, 20)
    with contextlib.closing(sqlite3.connect(folder / "sandbox.db")) as raw:
        raw.execute("PRAGMA synchronous=OFF")
        raw.executemany(
            "INSERT INTO sandbox (namespace, id, uid, host, tenant, project, k8s_deployment_name, desired, phase, generation,"
            " sequence) VALUES (:namespace, :id, :id, :id, :tenant, :project, :id, :desired, :phase, 1, :sequence)",
            (
                columns
                | {"id": f"bench-{one}", "project": f"project-{one % projects}", "sequence": count - sandboxes + one}
                for one in range(1, sandboxes)
            ),
        )
        raw.executemany(
            "INSERT INTO status_event (sequence, namespace, sandbox_id, tenant, document, spec_sequence,"
            " env_names_sequence, cause, project) VALUES (:sequence, :namespace, :id, :tenant, :document, 1, 1, :cause,"
            " :project)",
            (
                columns
                | {
                    "sequence": sequence,
                    "id": f"bench-{sequence % sandboxes}",
                    "project": f"project-{sequence % sandboxes % projects}",
                    "document": columns["document"].replace("bench-0", f"bench-{sequence % sandboxes}"),
                }
                for sequence in range(2, count + 1)
            ),
        )
        raw.execute("UPDATE watch_log SET last_sequence = ?", (count,))
        raw.commit()


async def _times(addresses: Mapping[int, str]) -> dict[tuple[int, str], list[float]]:
    """Seconds that pages took, by the length of the history and the scope. Both services are asked in turns."""
    times: dict[tuple[int, str], list[float]] = {(count, name): [] for count in addresses for name in SCOPES}
    places = random.Random(0)
    async with contextlib.AsyncExitStack() as opened:
        calls = {
            count: (await opened.enter_async_context(grpc.aio.insecure_channel(address))).unary_unary(
                f"{load.SERVICE}/ListEvents", response_deserializer=pb.ListEventsResponse.FromString
            )
            for count, address in addresses.items()
        }
        for number in range(CALLS):
            for name, scope in SCOPES.items():
                for count, call in calls.items():
                    oldest_first = number % 2 == 1
                    # Half of the history is left, so that the page is full.
                    token = places.randint(1, count // 2) if oldest_first else places.randint(count // 2, count)
                    request = pb.ListEventsRequest(
                        order=pb.EVENT_ORDER_OLDEST_FIRST if oldest_first else pb.EVENT_ORDER_NEWEST_FIRST,
                        page_token=str(token),
                        **scope,
                    )
                    began = time.perf_counter()
                    answer = await call(request.SerializeToString())
                    if number >= CALLS // 10:
                        times[count, name].append(time.perf_counter() - began)
                    assert len(answer.events) == 100, (count, name, len(answer.events))
    return times
