"""Replicas as processes of their own that stall or are killed at a failpoint: the others go on."""

import asyncio
import base64
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from sandbox_client import AsyncClient

from tests.support.replicas import NAMESPACES, Replicas
from tests.support.scripted import CLAIMS, SETS
from tests.support.service import Service
from tests.support.waiting import PATIENCE

# Several services start in each.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
KEYS = base64.b64encode(b"k" * 32).decode()


@pytest.fixture
def flags(replicas: Replicas, tmp_path: Path) -> tuple[str, ...]:
    """Flags of a replica over the database and the API server of the test."""
    kubeconfig = str(replicas.api.kubeconfig(tmp_path))
    of_cluster = ("--engine", "kubernetes", "--kubeconfig", kubeconfig, "--namespaces", "a,b,c,d,e,f")
    return (*of_cluster, "--database-url", replicas.url, "--encryption-keys", KEYS)


@pytest.mark.fault(11)
async def test_replica_that_stalls_before_a_commit_keeps_no_other_from_writing(
    make_service: Callable[..., Service], flags: tuple[str, ...]
) -> None:
    stalled = make_service(*flags, env={"SANDBOX_FAILPOINTS": "before_commit=sleep:60"})
    other = make_service(*flags)
    await asyncio.to_thread(stalled.start)
    await asyncio.to_thread(other.start)
    async with AsyncClient(stalled.address) as far, AsyncClient(other.address) as near:
        request_id = str(uuid.uuid4())
        lost = asyncio.create_task(far.create("demo", sandbox_id="stalled", namespace="a", request_id=request_id))
        await asyncio.sleep(1)
        began = time.monotonic()
        made = await near.create("demo", sandbox_id="box", namespace="a", timeout=30 * PATIENCE)
        # The other one stands still for far longer.
        assert time.monotonic() - began < 40
        assert made.status.sequence == 1
        # The repeat on another replica takes effect, once.
        again = await near.create("demo", sandbox_id="stalled", namespace="a", request_id=request_id)
        assert again.status.sequence == 2
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.crash(name))
        for name in ("leases_before_commit", "leases_after_commit", "leases_taken", "leases_before_give_up")
    ],
)
async def test_killed_at_a_failpoint_of_its_leases_a_replica_is_replaced_and_callers_notice_a_retry(
    make_service: Callable[..., Service], flags: tuple[str, ...], replicas: Replicas, name: str
) -> None:
    # At its third turn or the like: it has held everything, and the other has come.
    number = 3 if name.endswith("commit") else 1
    killed = make_service(*flags, env={"SANDBOX_FAILPOINTS": f"{name}=kill@{number}"})
    other = make_service(*flags)
    # It gives something up only if it had everything before the other came.
    await asyncio.to_thread(killed.start, wait=name == "leases_before_give_up")
    await asyncio.to_thread(other.start)
    assert killed.process is not None
    assert await asyncio.to_thread(killed.process.wait, 30 * PATIENCE) == -9
    killed.env = {}
    heard: list[int] = []
    async with AsyncClient(other.address) as client:

        async def watch() -> None:
            async for event in client.watch(after_sequence=0):
                heard.append(event.sequence)

        watching = asyncio.create_task(watch())
        # The other replica takes over everything that the killed one held, and gives up a share again.
        for step in ("alone", "together"):
            for namespace in NAMESPACES:
                made = await client.create("demo", sandbox_id=f"{step}-{namespace}", namespace=namespace)
                await client.wait_until(made, "RUNNING", namespace=namespace, timeout=30 * PATIENCE)
            if step == "alone":
                await asyncio.to_thread(killed.start)
        last = (await client.page()).sequence
        async with asyncio.timeout(10 * PATIENCE):
            while not heard or heard[-1] < last:
                await asyncio.sleep(0.02)
        watching.cancel()
    assert heard == list(range(1, last + 1))
    for namespace in NAMESPACES:
        sets = replicas.api.objects[SETS.replace("/default/", f"/{namespace}/")]
        assert sorted(sets) == [f"alone-{namespace}", f"together-{namespace}"]
        # Each was written once by the replica that held its namespace.
        assert {one["metadata"]["generation"] for one in sets.values()} == {1}


async def test_replica_ends_and_starts_anew_when_the_database_has_lost_what_it_has_read(
    make_service: Callable[..., Service], flags: tuple[str, ...], replicas: Replicas
) -> None:
    """As when a standby takes over that had not got the last commits: their sequences are given a second time."""
    service = make_service(*flags, "--resync", "0.5")
    await asyncio.to_thread(service.start)
    async with AsyncClient(service.address) as client:
        for name in ("kept", "lost"):
            made = await client.create("demo", sandbox_id=name, namespace="a")
            await client.wait_until(made, "RUNNING", namespace="a", timeout=30 * PATIENCE)
    engine = sa.create_engine(replicas.url)
    with engine.begin() as connection:
        # From the first event of the sandbox that is lost.
        first = connection.scalar(sa.text("SELECT min(sequence) FROM status_event WHERE sandbox_id = 'lost'"))
        for table in ("status_event", "part", "sandbox"):
            connection.execute(sa.text(f"DELETE FROM {table} WHERE sequence >= {first}"))
        connection.execute(sa.text(f"UPDATE watch_log SET last_sequence = {first} - 1"))
    engine.dispose()
    assert service.process is not None
    assert await asyncio.to_thread(service.process.wait, 20 * PATIENCE) == 1
    assert "the database has lost what it had committed" in service.log.read_text()
    await asyncio.to_thread(service.start)
    async with AsyncClient(service.address) as client:
        assert [one.sandbox_id async for one in client.list(namespace="a")] == ["kept"]
        await client.create("demo", sandbox_id="lost", namespace="a")


@pytest.mark.fault(6)
async def test_fifty_creates_with_one_request_id_on_two_replicas_make_one_sandbox_with_one_of_each_object(
    make_service: Callable[..., Service], flags: tuple[str, ...], replicas: Replicas
) -> None:
    services = [make_service(*flags) for _ in range(2)]
    for service in services:
        await asyncio.to_thread(service.start)
    async with AsyncClient(services[0].address) as first, AsyncClient(services[1].address) as second:
        for number in range(5):
            namespace, request_id = NAMESPACES[number], str(uuid.uuid4())
            answers = await asyncio.gather(
                *(
                    client.create("demo", namespace=namespace, request_id=request_id)
                    for client in (first, second)
                    for _ in range(25)
                )
            )
            assert len({one.uid for one in answers}) == 1
            await second.wait_until(answers[0], "RUNNING", timeout=30 * PATIENCE)
            for collection in (SETS, CLAIMS):
                assert len(replicas.api.objects[collection.replace("/default/", f"/{namespace}/")]) == 1
        assert len([one async for one in second.list()]) == 5


@pytest.mark.fault(10)
async def test_two_replicas_write_nothing_while_nothing_is_asked(
    make_service: Callable[..., Service], flags: tuple[str, ...], replicas: Replicas
) -> None:
    services = [make_service(*flags, "--resync", "0.5") for _ in range(2)]
    for service in services:
        await asyncio.to_thread(service.start)
    async with AsyncClient(services[0].address) as client:
        for namespace in NAMESPACES:
            made = await client.create("demo", sandbox_id="box", namespace=namespace)
            await client.wait_until(made, "RUNNING", namespace=namespace, timeout=30 * PATIENCE)
        # The second replica takes its share, and the last facts of the new sandboxes come in.
        async with asyncio.timeout(30 * PATIENCE):
            before, asked = (-1, -1), 0
            while (now := ((await client.page()).sequence, replicas.api.version)) != before:
                before, asked = now, len(replicas.api.calls)
                # Several resyncs of both.
                await asyncio.sleep(3)
    assert {method for method, _ in replicas.api.calls[asked:]} <= {"GET", "WATCH", "TRIAL"}


@pytest.mark.fault(13)
async def test_watch_of_a_killed_replica_resumes_on_another_without_a_gap_or_a_repeat(
    make_service: Callable[..., Service], flags: tuple[str, ...]
) -> None:
    services = [make_service(*flags) for _ in range(2)]
    for service in services:
        await asyncio.to_thread(service.start)
    heard: list[int] = []

    async def watch(address: str, until: int) -> None:
        async with AsyncClient(address) as client:
            async for event in client.watch(after_sequence=heard[-1] if heard else 0):
                heard.append(event.sequence)
                if event.sequence >= until:
                    return

    async with AsyncClient(services[1].address) as client:
        await client.create("demo", sandbox_id="box", namespace="a")
        ended = asyncio.Event()

        async def load() -> None:
            number = 0
            while not ended.is_set():
                number += 1
                await client.update_env("box", namespace="a", set={"N": str(number)})

        loading = asyncio.create_task(load())
        await watch(services[0].address, until=50)
        services[0].kill()
        await watch(services[1].address, until=heard[-1] + 50)
        ended.set()
        await loading
    assert heard == list(range(1, heard[-1] + 1))
