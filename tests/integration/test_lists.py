"""Lists with TERMINATED sandboxes, on real SQLite and real PostgreSQL."""

import asyncio
import base64
import contextlib
import dataclasses
import itertools
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server import app, feed, store
from sandbox_server.domain import selector
from sandbox_server.domain.event import Event
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.tenant import Tenant
from sandbox_server.settings import Settings
from sandbox_server.store import connection, documents, schema, search

from tests.support import samples
from tests.support.blind import BlindEngine
from tests.support.variants import BOTH_DATABASES, some
from tests.support.waiting import PATIENCE

ENDED = frozenset({Phase.TERMINATED})
SELECTORS = (
    "",
    "a=1",
    "a==2",
    "a!=1",
    "a in (1,2)",
    "a notin (1,2)",
    "a",
    "!a",
    "a=",
    "a!=",
    "a,b=x",
    "!a,b",
    "A",
    "b=X",
)
SELECTORS += ("b in (x,X),!a", "example.com/key.x=1", "!example.com/key.x")
TENANT = Tenant("default", ("default", "another"))


def ended(last: Event) -> Event:
    status = samples.status(phase=Phase.TERMINATED, reason=Reason.DELETED)
    return samples.changed(last, status=status, desired=DesiredState.DELETED)


class Opened:
    """A store and what reads it."""

    def __init__(self, running: app.Service) -> None:
        self.store = running.store
        self.manager = running.manager

    async def snapshot(
        self, selection: feed.Filter, ended: bool
    ) -> tuple[list[pb.WatchStatusResponse], pb.WatchStatusResponse]:
        """The statuses of the snapshot of a watch, and the message that it is complete."""
        received: list[pb.WatchStatusResponse] = []
        complete = asyncio.Event()

        async def send(message: bytes) -> None:
            received.append(pb.WatchStatusResponse.FromString(message))
            if received[-1].HasField("snapshot_complete"):
                complete.set()

        watching = asyncio.create_task(self.manager.watch(selection, None, send, ended))
        await asyncio.wait_for(complete.wait(), 20 * PATIENCE)
        watching.cancel()
        return received[:-1], received[-1]

    async def make(self, *sandboxes: Sandbox) -> list[Event]:
        return await asyncio.gather(*(self.store.write(lambda _, one=one: samples.new(one)) for one in sandboxes))

    async def end(self, *events: Event) -> list[Event]:
        return await asyncio.gather(*(self.update(ended(one)) for one in events))

    async def update(self, event: Event) -> Event:
        return await self.store.write(lambda _: samples.write(event))

    async def pages(
        self, size: int, phases: frozenset[Phase] = frozenset(Phase), tenant: Tenant = TENANT, **selection: Any
    ) -> list[list[Event]]:
        """All pages of a list."""
        found: list[list[Event]] = []
        after: Key | None = None
        while not found or after is not None:
            page = await self.page(feed.Filter(tenant, **selection), phases, size, after)
            found.append(page[:size])
            after = page[size - 1].sandbox.key if len(page) > size else None
        return found

    async def page(self, selection: feed.Filter, phases: frozenset[Phase], size: int, after: Key | None) -> list[Event]:
        """The sandboxes of a page, and the one after it."""
        return await self.manager.list(selection, phases, after, lambda _, found: [*itertools.islice(found, size + 1)])


@pytest.fixture
async def opened(database_url: str) -> AsyncIterator[Opened]:
    keys = SecretStr(base64.b64encode(b"k" * 32).decode())
    settings = Settings(listen="127.0.0.1:0", database_url=SecretStr(database_url), encryption_keys=keys)
    async with app.service(settings, engine=BlindEngine()) as running:
        yield Opened(running)


def keys(events: Sequence[Event]) -> list[Key]:
    return [one.sandbox.key for one in events]


@pytest.mark.find(28)
@pytest.mark.parametrize("size", some([1, 3, 100], 1))
async def test_pages_with_ended_sandboxes_follow_one_another_in_the_order_of_the_keys(
    opened: Opened, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox_server.store.reader.CHUNK", 2)
    # A collation of a language would pass over the hyphens.
    names = ["a-z", "ab", "a-b", "a", "a0", "b", "aa-1", "aa1"]
    made = await opened.make(
        *(samples.sandbox(name, namespace=namespace) for name in names for namespace in TENANT.namespaces),
        samples.sandbox("foreign", tenant="foreign"),
        samples.sandbox("elsewhere", namespace="elsewhere"),
    )
    await opened.end(*made[::2], made[-1])
    mine = sorted(keys(made[:-2]))
    pages = await opened.pages(size)
    assert [key for page in pages for key in keys(page)] == mine
    assert [len(page) for page in pages[:-1]] == [size] * (len(pages) - 1)
    assert 0 < len(pages[-1]) <= size
    assert keys((await opened.pages(100, ENDED))[0]) == sorted(keys(made[:-2:2]))
    assert keys((await opened.pages(100, namespace="default"))[0]) == [
        key for key in mine if key.namespace == "default"
    ]
    assert await opened.pages(100, namespace="elsewhere") == [[]]


@BOTH_DATABASES
@pytest.mark.find(28)
@pytest.mark.slow
async def test_a_list_with_ended_sandboxes_matches_as_one_of_live_sandboxes_does(opened: Opened) -> None:
    labelled: list[dict[str, str]] = [{}, {"a": "1"}, {"a": "2"}, {"a": "1", "b": "x"}, {"b": "x"}, {"b": "X"}]
    labelled += [{"a": ""}, {"example.com/key.x": "1"}, {"A": "1"}]
    made = await opened.make(
        *(
            samples.sandbox(f"{project}-{number}", spec=samples.spec(project=project, labels=labels))
            for number, labels in enumerate(labelled)
            for project in ("demo", "other")
        )
    )
    made = await opened.end(*made)
    for text, project in itertools.product(SELECTORS, ("", "demo")):
        wanted = selector.parse("labels", text)
        expected = [
            one for one in made if wanted.matches(one.sandbox.spec.labels) and project in ("", one.sandbox.spec.project)
        ]
        (page,) = await opened.pages(100, ENDED, labels=wanted, project=project)
        assert keys(page) == sorted(keys(expected)), text


@pytest.mark.find(25)
async def test_a_list_of_kept_volumes_has_those_alone(opened: Opened) -> None:
    made = await opened.make(*(samples.sandbox(name) for name in ("live", "kept", "removed")))
    for one, reason in zip(made[1:], (Reason.VOLUME_KEPT, Reason.DELETED), strict=True):
        status = dataclasses.replace(one.sandbox.status, phase=Phase.TERMINATED, reason=reason)
        await opened.update(samples.changed(one, status=status))
    found = await opened.manager.list(feed.Filter(TENANT), ENDED, None, lambda _, ones: keys([*ones]), volume_kept=True)
    assert found == keys(made[1:2])


@pytest.mark.find(28)
@pytest.mark.slow
async def test_a_page_is_as_of_one_moment(opened: Opened) -> None:
    """Each sandbox is on the pages exactly once while sandboxes end and their ids are taken up again."""
    made = await opened.make(*(samples.sandbox(f"demo-{number:02}") for number in range(40)))

    async def change() -> None:
        for one in made:
            await opened.end(one)
            await opened.make(samples.sandbox(one.sandbox.id))

    changing = asyncio.create_task(change())
    while not changing.done():
        (page,) = await opened.pages(100)
        assert keys(page) == sorted(keys(made))
    await changing


@pytest.mark.find(28)
async def test_page_has_the_sequence_of_its_moment(opened: Opened) -> None:
    (made,) = await opened.make(samples.sandbox())
    await opened.end(made)
    page = await opened.manager.list(
        feed.Filter(TENANT), ENDED, None, lambda sequence, found: (sequence, [one.sequence for one in found])
    )
    assert page == (2, [2])


@pytest.mark.fault(72)
@pytest.mark.find(28)
async def test_a_reader_does_not_wait_for_those_of_another_lane(opened: Opened) -> None:
    (made,) = await opened.make(samples.sandbox())
    for busy in store.Lane:
        begun, go_on = threading.Event(), threading.Event()

        def hold(reader: store.Reader, begun: threading.Event = begun, go_on: threading.Event = go_on) -> None:
            reader.ping()
            begun.set()
            assert go_on.wait(20 * PATIENCE)

        holding = asyncio.create_task(opened.store.read(hold, busy))
        try:
            assert await asyncio.to_thread(begun.wait, 10 * PATIENCE)
            async with asyncio.timeout(10 * PATIENCE):
                for lane in set(store.Lane) - {busy}:
                    assert await opened.store.read(lambda reader: reader.last(made.sandbox.key), lane) == made
        finally:
            go_on.set()
            await holding


@pytest.mark.fault(72)
@pytest.mark.find(28)
@pytest.mark.slow
async def test_a_page_decodes_few_more_rows_than_it_has(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await opened.make(*(samples.sandbox(f"demo-{number:03}") for number in range(500)))
    await opened.end(*made)
    decoded = 0
    decode = documents.events

    def counted(found: Sequence[documents.Row], *others: Any) -> list[Event]:
        nonlocal decoded
        decoded += len(found)
        return decode(found, *others)

    monkeypatch.setattr(documents, "events", counted)
    page = await opened.page(feed.Filter(TENANT), ENDED, 10, made[250].sandbox.key)
    assert keys(page) == sorted(keys(made))[251:262]
    assert decoded <= 25
    assert await opened.page(feed.Filter(TENANT, labels=selector.parse("labels", "a=b")), ENDED, 10, None) == []
    assert decoded <= 25


@pytest.mark.fault(72)
@pytest.mark.find(28)
async def test_a_list_reads_the_rows_of_its_page_by_the_primary_key(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    schema.check(f"sqlite:///{path}")
    selection = store.Search(
        "default", frozenset({"default"}), frozenset(Phase), "demo", selector.parse("labels", "a=b")
    )
    with contextlib.closing(connection.Database(f"sqlite:///{path}", writes=False, busy_timeout=1)) as database:
        text, values = database._with_values(search.page(selection, "default", Key("default", "demo-1"), 10))
        with database.begin() as cursor:
            plan = [detail for *_, detail in cursor._raw.execute(f"EXPLAIN QUERY PLAN {text}", values)]
    assert plan[0] == "SEARCH sandbox USING PRIMARY KEY (namespace=? AND id>?)"
    assert all(one.startswith("SEARCH") and "sequence=?" in one for one in plan[1:])


@pytest.mark.parametrize("sandboxes", [0, 1, 250])
@pytest.mark.slow
async def test_snapshot_has_the_sandboxes_that_have_ended_if_it_is_asked_to(opened: Opened, sandboxes: int) -> None:
    live = await opened.make(samples.sandbox("live"), samples.sandbox("other", spec=samples.spec(project="other")))
    made = await opened.make(*(samples.sandbox(f"demo-{number:03}") for number in range(sandboxes)))
    await opened.end(*made)
    for project, expected in (("", {"live", "other"}), ("demo", {"live"}), ("nothing", set())):
        shown = expected | ({key.id for key in keys(made)} if project != "nothing" else set())
        for ended, names in ((False, expected), (True, shown)):
            sent, complete = await opened.snapshot(feed.Filter(TENANT, project=project), ended)
            assert len(sent) == complete.snapshot_complete.count
            assert {one.status.sandbox_id for one in sent} == names
            assert {
                one.status.sandbox_id for one in sent if one.status.phase == pb.PHASE_TERMINATED
            } == names - expected
            assert all(one.sequence <= complete.sequence for one in sent)
    assert live


@pytest.mark.slow
async def test_sandbox_that_ends_while_a_snapshot_is_sent_is_an_event_of_the_watch(opened: Opened) -> None:
    early, late = await opened.make(samples.sandbox("early"), samples.sandbox("late"))
    await opened.end(early)
    received: list[pb.WatchStatusResponse] = []

    async def send(message: bytes) -> None:
        received.append(pb.WatchStatusResponse.FromString(message))
        if len(received) == 1:
            # The snapshot has the sandbox as it was.
            await opened.end(late)

    watching = asyncio.create_task(opened.manager.watch(feed.Filter(TENANT), None, send, True))
    async with asyncio.timeout(30 * PATIENCE):
        while len(received) < 4:
            await asyncio.sleep(0.01)
    watching.cancel()
    found = [(one.status.sandbox_id, one.status.phase == pb.PHASE_TERMINATED) for one in received]
    assert found == [("late", False), ("early", True), ("", False), ("late", True)]
    assert received[2].snapshot_complete.count == 2
