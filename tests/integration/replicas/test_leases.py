"""Namespaces are shared between live replicas. Each is held by one replica at a time, and every replica serves them all."""

import asyncio
import collections
import dataclasses
from typing import Any

import pytest
from sandbox_server import store
from sandbox_server.domain.event import OBSERVED
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.store import notices

from tests.support import relay, samples
from tests.support.replicas import CUT_OFF_SOON, EXPIRING, NAMESPACES, PACE, Replica, Replicas
from tests.support.scripted import UNANSWERED, hang
from tests.support.waiting import PATIENCE


def epochs(three: list[Replica]) -> dict[str, int]:
    """How often each namespace has been taken."""
    return {space: max(one.running.leases.held(space) for one in three) for space in NAMESPACES}


@pytest.mark.slow
async def test_three_replicas_share_the_namespaces_and_each_answers_for_all(replicas: Replicas) -> None:
    three = [await replicas.start() for _ in range(3)]
    await replicas.until(replicas.shared)
    shared = epochs(three)
    for index, namespace in enumerate(NAMESPACES):
        await three[index % 3].create(namespace, "box")
    for replica in three:
        for namespace in NAMESPACES:
            await replica.settled(namespace, "box", Phase.RUNNING)
            assert replica.running.server.is_serving
    await replicas.until(lambda: not any(one.running.manager.stale(space) for one in three for space in NAMESPACES))
    await replicas.until(lambda: len({one.running.feed.sequence for one in three}) == 1)
    for replica in three:
        assert [one.sequence for one in replica.events] == list(range(1, replica.running.feed.sequence + 1))
    assert three[0].events == three[1].events == three[2].events
    counts = [one.running.leases.counts for one in three]
    assert [(one.held, one.replicas, one.failures) for one in counts] == [(2, 3, 0)] * 3
    # Nothing is written twice: each object has one writer, for as long as that holds its namespace.
    writes = collections.Counter(path for method, path in replicas.api.calls if method in ("PATCH", "POST"))
    twice = {path.split("/namespaces/")[1].split("/")[0] for path, count in writes.items() if count > 1}
    assert twice <= {space for space, epoch in epochs(three).items() if epoch != shared[space]}


async def test_replica_that_joins_gets_its_share_and_one_that_stops_hands_over_at_once(replicas: Replicas) -> None:
    # With a lease that does not end in this test by itself.
    pace = dataclasses.replace(PACE, lease=60.0)
    first = await replicas.start(base_pace=pace)
    await replicas.until(replicas.shared)
    await first.create("a", "box")
    await first.settled("a", "box", Phase.RUNNING)
    second = await replicas.start(base_pace=pace)
    await replicas.until(replicas.shared)
    assert len(second.held()) == 3
    before = dict(replicas.api.objects)
    await replicas.stop(first)
    await replicas.until(lambda: second.held() == set(NAMESPACES))
    await second.env("a", "box", A="2")
    await second.settled("a", "box", Phase.RUNNING)
    assert before.keys() <= replicas.api.objects.keys()


@pytest.mark.slow
async def test_replica_that_is_cut_off_from_the_database_holds_nothing_before_another_takes_over(
    replicas: Replicas,
) -> None:
    with relay.postgresql(replicas.url) as (between, url):
        cut = await replicas.start(url, base_pace=EXPIRING)
        other = await replicas.start(base_pace=EXPIRING)
        await replicas.until(replicas.shared)
        lost = cut.held()
        (namespace, *_) = sorted(lost)
        await other.create(namespace, "box")
        decided = await other.settled(namespace, "box", Phase.RUNNING)
        epoch = cut.running.leases.held(namespace)
        between.hold_answers()
        overlaps = []

        def taken_over() -> bool:
            overlaps.extend(cut.held() & other.held())
            return other.held() == set(NAMESPACES)

        await replicas.until(taken_over)
        assert overlaps == []
        assert other.running.leases.held(namespace) == epoch + 1
        await other.env(namespace, "box", A="2")
        await other.settled(namespace, "box", Phase.RUNNING)
        between.cut()
        await replicas.until(replicas.shared)
        await cut.settled(namespace, "box", Phase.RUNNING)

        # What the former holder decided under its epoch is refused, even if it was decided on the last event.
        def late(reader: store.Reader) -> store.Write:
            last = reader.last(Key(namespace, "box"))
            assert last is not None
            return store.Write(samples.changed(last, host="other").sandbox, last.sequence, OBSERVED, None, epoch)

        with pytest.raises(store.Stale):
            await cut.running.store.write(late)
        assert decided.host == (await cut.settled(namespace, "box", Phase.RUNNING)).host


@pytest.mark.slow
async def test_stale_is_the_same_on_every_replica(replicas: Replicas) -> None:
    three = [await replicas.start(cluster_timeout=UNANSWERED) for _ in range(3)]
    await replicas.until(lambda: replicas.shared() and not any(stale(one, "a") for one in three))

    replicas.api.lasting.append((lambda request: "/namespaces/a/" in request.path, hang))
    await replicas.until(lambda: all(stale(one, "a") and not stale(one, "b") for one in three))
    replicas.api.lasting.clear()
    await replicas.until(lambda: not any(stale(one, "a") for one in three))


def stale(replica: Replica, namespace: str) -> bool:
    return replica.running.manager.stale(namespace)


@pytest.mark.slow
async def test_replica_that_is_cut_off_from_the_cluster_leaves_its_share_to_others(replicas: Replicas) -> None:
    with relay.to(replicas.api.port) as between:
        far = replicas.folder / "far"
        far.mkdir()
        port = int(between.address.rpartition(":")[2])
        kubeconfig = samples.kubeconfig(far, port)
        cut = await replicas.start(kubeconfig=kubeconfig, base_pace=CUT_OFF_SOON, cluster_timeout=UNANSWERED)
        other = await replicas.start()
        await replicas.until(lambda: replicas.shared() and not any(stale(cut, one) for one in NAMESPACES))
        (namespace, *_) = sorted(cut.held())
        between.hold_answers()
        await replicas.until(lambda: other.held() == set(NAMESPACES))
        await cut.create(namespace, "box")
        await cut.settled(namespace, "box", Phase.RUNNING)
        await replicas.until(lambda: not stale(cut, namespace))
        between.cut()
        await replicas.until(replicas.shared)


@pytest.mark.slow
async def test_replicas_that_are_all_cut_off_keep_their_shares(replicas: Replicas) -> None:
    two = [await replicas.start(base_pace=CUT_OFF_SOON, cluster_timeout=UNANSWERED) for _ in range(2)]
    await replicas.until(lambda: replicas.shared() and not any(stale(two[0], one) for one in NAMESPACES))
    replicas.api.lasting.append((lambda _: True, hang))
    await replicas.until(lambda: all(stale(two[0], one) for one in NAMESPACES))
    await asyncio.sleep(4 * CUT_OFF_SOON.cut_off_after)
    assert replicas.shared()
    replicas.api.lasting.clear()
    await replicas.until(lambda: not any(stale(two[1], one) for one in NAMESPACES))
    await replicas.until(replicas.shared)


@pytest.mark.slow
async def test_replicas_that_have_nothing_to_do_tell_one_another_nothing(replicas: Replicas) -> None:
    # With leases that do not end in this test by themselves.
    pace = dataclasses.replace(PACE, lease=60.0)
    first, second = await replicas.start(base_pace=pace), await replicas.start(base_pace=pace)
    await replicas.until(lambda: replicas.shared() and not any(stale(first, one) for one in NAMESPACES))
    heard: list[object] = []
    listening = asyncio.create_task(notices.listen(replicas.url, heard.append, 1))
    await replicas.until(lambda: None in heard)
    # A busy machine may still have something to tell of its start.
    async with asyncio.timeout(30 * PATIENCE):
        while heard:
            heard.clear()
            await asyncio.sleep(5 * PACE.lease_every)
    # What there is to tell is told at once: no replica would look by itself so soon.
    made = await first.create("a", "box")
    await replicas.until(lambda: notices.Notice(first.name, 1) in heard)
    await second.settled("a", made.id, Phase.RUNNING)
    listening.cancel()


@pytest.mark.slow
async def test_events_reach_every_replica_although_no_notice_does(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deaf(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(store.Store, "listen", deaf)
    first, second = await replicas.start(), await replicas.start()
    await replicas.until(replicas.shared)
    await first.create("a", "box")
    await second.settled("a", "box", Phase.RUNNING)
    await replicas.stop(second)
    await replicas.until(lambda: first.held() == set(NAMESPACES), within=3 * PACE.lease)


@pytest.mark.slow
async def test_sandbox_of_a_namespace_that_no_tenant_has_any_more_says_so(replicas: Replicas) -> None:
    first = await replicas.start()
    await replicas.until(replicas.shared)
    await first.create("a", "box")
    await first.settled("a", "box", Phase.RUNNING)
    await replicas.stop(first)
    others = [await replicas.start(namespaces="b,c,d,e,f") for _ in range(2)]
    await others[0].env("a", "box", A="2")
    for one in others:
        await replicas.until(lambda one=one: last(one, "a").status.reason is Reason.NAMESPACE_MISSING)  # type: ignore[misc]


def last(replica: Replica, namespace: str) -> Sandbox:
    found = replica.running.feed.catalogue.get(Key(namespace, "box"))
    assert found is not None
    return found.event.sandbox


@pytest.mark.slow
async def test_second_service_with_the_local_engine_refuses_to_start(replicas: Replicas) -> None:
    await replicas.start(engine="local", data_dir=replicas.folder / "one")
    with pytest.raises(OSError, match="another service uses it with engine=local"):
        await replicas.start(engine="local", data_dir=replicas.folder / "two")
    with pytest.raises(OSError, match="another service uses it with engine=local"):
        await replicas.start()
