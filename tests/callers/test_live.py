"""Both clients against the live service: lost answers, cut and silent connections, restarts."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import snapshot_pb2
from sandbox_client import AsyncClient, Client, Kind, channel

from tests.support import relay
from tests.support.service import Service
from tests.support.specs import SLEEP
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture
async def aio(service: Service) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service.address) as client:
        yield client


@pytest.fixture
def between(service: Service) -> Iterator[relay.Relay]:
    with relay.to(service.port) as made:
        yield made


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    def public(kind: type) -> dict[str, list[str]]:
        members = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(one).parameters) for name, one in members if name[0] != "_"}

    assert public(Client) == public(AsyncClient)


@pytest.mark.slow
def test_a_create_whose_answer_was_lost_is_repeated_and_makes_one_sandbox(between: relay.Relay, client: Client) -> None:
    with Client(between.address) as far:
        far.page()
        between.hold_answers()
        made: list[pb.Sandbox] = []
        thread = threading.Thread(target=lambda: made.append(far.create("lost", spec=SLEEP)), daemon=True)
        thread.start()
        eventually(lambda: len(list(client.list(project="lost"))) == 1)
        assert not made
        between.cut()
        thread.join(60 * PATIENCE)
    assert between.connections >= 2
    assert [one.uid for one in client.list(project="lost")] == [made[0].uid]
    client.delete(made[0].sandbox_id)


@pytest.mark.slow
async def test_an_async_create_whose_answer_was_lost_is_repeated_and_makes_one_sandbox(
    between: relay.Relay, aio: AsyncClient
) -> None:
    async with AsyncClient(between.address) as far:
        await far.page()
        between.hold_answers()
        answer = asyncio.create_task(far.create("lost-too", spec=SLEEP))
        while not [one async for one in aio.list(project="lost-too")]:
            await asyncio.sleep(0.02)
        between.cut()
        made = await answer
    assert [one.uid async for one in aio.list(project="lost-too")] == [made.uid]
    await aio.delete(made.sandbox_id)


@pytest.mark.slow
def test_a_call_made_while_the_service_is_down_is_answered_once_it_is_up(make_service: Callable[..., Service]) -> None:
    service = make_service()
    with service.client() as client:
        made: list[pb.Sandbox] = []
        thread = threading.Thread(target=lambda: made.append(client.create("early", spec=SLEEP)), daemon=True)
        thread.start()
        service.start()
        thread.join(60 * PATIENCE)
        assert [one.uid for one in client.list()] == [made[0].uid]
        client.delete(made[0].sandbox_id)
        client.wait_until(made[0].sandbox_id, "TERMINATED", timeout=20 * PATIENCE)


def test_a_watch_over_a_connection_that_is_cut_again_and_again_misses_and_repeats_nothing(
    between: relay.Relay, client: Client
) -> None:
    seen: list[tuple[int, int]] = []
    kinds: list[Kind] = []

    def watch() -> None:
        with Client(between.address) as far:
            for event in far.watch(project="cut", timeout=60 * PATIENCE):
                kinds.append(event.kind)
                if event.status is not None:
                    seen.append((event.sequence, event.status.phase))
                    if event.status.phase == pb.PHASE_TERMINATED:
                        return

    def cut() -> None:
        """Cuts, and waits until the watch is back: a cut where nothing is connected would show nothing."""
        before = between.connections
        between.cut()
        eventually(lambda: between.connections > before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    eventually(lambda: Kind.SYNCED in kinds)
    before = client.page().sequence
    made = client.create("cut", spec=SLEEP)
    for call, phase in ((client.stop, "STOPPED"), (client.start, "RUNNING"), (client.delete, "TERMINATED")):
        cut()
        changed = call(made.sandbox_id)
        cut()
        client.wait_until(made.sandbox_id, phase, generation=changed.status.generation, timeout=20 * PATIENCE)
    thread.join(60 * PATIENCE)
    assert not thread.is_alive()
    whole = [
        (event.sequence, event.status.phase)
        for event in client.watch([made.sandbox_id], after_sequence=before, timeout=20 * PATIENCE)
        if event.status is not None
    ]
    assert seen == whole
    assert Kind.RESYNC not in kinds
    assert between.connections >= 7


def test_a_watch_notices_a_connection_that_went_silent_and_goes_on_over_another(
    between: relay.Relay, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The options themselves, at a twentieth of the time: 2 seconds instead of 40.
    waits = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
    quicker = tuple((name, value // 20 if name in waits else value) for name, value in channel.OPTIONS)
    monkeypatch.setattr(channel, "OPTIONS", quicker)
    kinds: list[Kind] = []

    def watch() -> None:
        with Client(between.address) as far:
            for event in far.watch(project="silent", timeout=60 * PATIENCE):
                kinds.append(event.kind)
                if event.kind is Kind.CHANGE:
                    return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    eventually(lambda: Kind.SYNCED in kinds)
    between.hold_answers()
    eventually(lambda: between.connections > 1, within=15)
    between.cut()
    made = client.create("silent", spec=SLEEP)
    thread.join(60 * PATIENCE)
    assert kinds == [Kind.SYNCED, Kind.CHANGE]
    client.delete(made.sandbox_id)


@pytest.mark.slow
async def test_an_async_watch_resumes_across_a_kill_of_the_service(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    async with AsyncClient(service.address, timeout=60 * PATIENCE) as client:
        seen: list[tuple[int, int]] = []
        synced = asyncio.Event()

        async def watch() -> None:
            async for event in client.watch(project="killed", timeout=60 * PATIENCE):
                if event.kind is Kind.SYNCED:
                    synced.set()
                assert event.kind is not Kind.RESYNC
                if event.status is not None:
                    seen.append((event.sequence, event.status.phase))
                    if event.status.phase == pb.PHASE_TERMINATED:
                        return

        watching = asyncio.create_task(watch())
        await asyncio.wait_for(synced.wait(), 30 * PATIENCE)
        made = await client.create("killed", spec=SLEEP)
        await client.wait_until(made.sandbox_id, "RUNNING", timeout=20 * PATIENCE)
        service.kill()
        stopping = asyncio.create_task(client.stop(made.sandbox_id))
        await asyncio.to_thread(service.start)
        stopped = await stopping
        await client.wait_until(made.sandbox_id, "STOPPED", generation=stopped.status.generation, timeout=20 * PATIENCE)
        await client.delete(made.sandbox_id)
        await asyncio.wait_for(watching, 30 * PATIENCE)
        again = client.watch([made.sandbox_id], after_sequence=made.status.sequence - 1, timeout=20 * PATIENCE)
        whole = [(event.sequence, event.status.phase) async for event in again if event.status is not None]
    assert seen == whole


@pytest.mark.slow
async def test_an_async_watch_of_snapshots_resumes_across_a_kill_of_the_service(
    make_service: Callable[..., Service],
) -> None:
    service = make_service().start()
    async with AsyncClient(service.address, timeout=60 * PATIENCE) as client:
        made = await client.create("killed", spec=SLEEP)
        await client.wait_until(made, "RUNNING", timeout=20 * PATIENCE)
        first = await client.wait_for_snapshot(await client.create_snapshot(made, outlives_sandbox=True))
        seen: list[tuple[int, str, int]] = []
        there = asyncio.Event()

        async def watch() -> None:
            async for event in client.watch_snapshots(sandbox_id=made.sandbox_id, timeout=60 * PATIENCE):
                assert event.kind is not Kind.RESYNC
                if event.kind is Kind.SYNCED:
                    there.set()
                elif event.kind is Kind.CHANGE and event.snapshot is not None:
                    seen.append((event.sequence, event.snapshot.snapshot_id, event.snapshot.state))
                    if event.snapshot.state == snapshot_pb2.SNAPSHOT_STATE_DELETED:
                        return

        watching = asyncio.create_task(watch())
        await asyncio.wait_for(there.wait(), 30 * PATIENCE)
        service.kill()
        taking = asyncio.create_task(client.create_snapshot(made))
        await asyncio.to_thread(service.start)
        await client.wait_for_snapshot(await taking)
        await client.delete_snapshot(first)
        await asyncio.wait_for(watching, 30 * PATIENCE)
        again = client.watch_snapshots(sandbox_id=made.sandbox_id, after_sequence=first.sequence, timeout=20 * PATIENCE)
        whole = []
        async for event in again:
            if event.snapshot is not None:
                whole.append((event.sequence, event.snapshot.snapshot_id, event.snapshot.state))
                if event.snapshot.state == snapshot_pb2.SNAPSHOT_STATE_DELETED:
                    break
        await client.delete(made)
    assert seen == whole


def test_resume_past_the_newest_event_yields_resync_and_a_snapshot(client: Client) -> None:
    kinds = []
    for event in client.watch(project="nobody", after_sequence=10**12, timeout=10):
        kinds.append(event.kind)
        if event.kind is Kind.SYNCED:
            break
    assert kinds == [Kind.RESYNC, Kind.SYNCED]
