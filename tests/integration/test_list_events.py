"""ListEvents through a real gRPC client, on real SQLite and real PostgreSQL."""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from alembic import command
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server import store
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import Key
from sandbox_server.rpc import listing
from sandbox_server.store import connection, schema, timeline

from tests.support import samples
from tests.support import served as serving
from tests.support.served import Served
from tests.support.variants import BOTH_DATABASES
from tests.support.waiting import PATIENCE

OLDEST = pb.EVENT_ORDER_OLDEST_FIRST


@pytest.fixture
async def served(database_url: str, tmp_path: Path) -> AsyncIterator[Served]:
    async with serving.served(database_url, tmp_path) as service:
        yield service


async def page(served: Served, **fields: Any) -> Any:
    return await served.stub.ListEvents(pb.ListEventsRequest(**fields), timeout=20 * PATIENCE)


async def pages(served: Served, **fields: Any) -> list[Any]:
    """All pages of a list."""
    found = [await page(served, **fields)]
    while found[-1].next_page_token:
        found.append(await page(served, **fields, page_token=found[-1].next_page_token))
    return found


async def listed(served: Served, **fields: Any) -> list[int]:
    """The sequences of all pages."""
    return [event.sequence for one in await pages(served, **fields) for event in one.events]


@BOTH_DATABASES
async def test_each_event_has_its_status_and_what_caused_it(served: Served) -> None:
    request_id = str(uuid.uuid4())
    of_batch = str(uuid.uuid4())
    began = datetime.now(UTC) - timedelta(seconds=2)
    await served.create("a", request_id=request_id.upper())
    await served.write("a", Phase.RUNNING)
    await served.stub.UpdateEnvVars(pb.UpdateEnvVarsRequest(sandbox_id="a", set={"A": samples.CANARY}))
    await served.stub.Stop(pb.StopRequest(sandbox_id="a"))
    await served.stub.BatchStart(pb.BatchStartRequest(sandbox_ids=["a"], request_id=of_batch))
    answer = await page(served, order=OLDEST)
    made, running, updated, stopped, batch = answer.events
    assert made.cause == pb.Cause(
        kind=pb.CAUSE_KIND_MUTATION, actor="default", method="CreateSandbox", request_id=request_id
    )
    assert running.cause == pb.Cause(kind=pb.CAUSE_KIND_OBSERVED)
    assert [one.cause.method for one in (updated, stopped)] == ["UpdateEnvVars", "Stop"]
    assert (batch.cause.method, batch.cause.request_id) == ("BatchStart", of_batch)
    assert [one.status.phase for one in (made, running)] == [pb.PHASE_CREATING, pb.PHASE_RUNNING]
    assert [one.status.desired_state for one in (updated, stopped)] == [
        pb.DESIRED_STATE_RUNNING,
        pb.DESIRED_STATE_STOPPED,
    ]
    assert [one.sequence for one in answer.events] == [one.status.sequence for one in answer.events] == [1, 2, 3, 4, 5]
    assert all(began <= one.record_time.ToDatetime(UTC) <= datetime.now(UTC) for one in answer.events)
    assert (answer.sequence, answer.first_kept_sequence, answer.next_page_token) == (5, 1, "")
    now = (await served.stub.GetStatus(pb.GetStatusRequest(sandbox_id="a"))).status
    now.stale = False
    assert batch.status == now
    assert samples.CANARY.encode() not in answer.SerializeToString()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 60, 1000])
@pytest.mark.slow
async def test_pages_in_both_orders_have_every_event_once(served: Served, size: int) -> None:
    for name, project in (("a", "demo"), ("b", "other"), ("c", "demo")):
        await served.create(name, project)
    for number in range(57):
        await served.write("abc"[number % 3], Phase.STARTING, message=str(number))
    everything = list(range(1, 61))
    of_a = [1, *range(4, 61, 3)]
    of_demo = sorted([*of_a, 3, *range(6, 61, 3)])
    for fields, expected in (
        ({}, everything),
        ({"namespace": "default"}, everything),
        ({"project": "demo"}, of_demo),
        ({"sandbox_id": "a"}, of_a),
        ({"sandbox_id": "a", "project": "demo"}, of_a),
        ({"sandbox_id": "a", "project": "other"}, []),
        ({"after_sequence": 40}, everything[40:]),
        ({"after_sequence": 40, "project": "demo"}, [one for one in of_demo if one > 40]),
        ({"after_sequence": 10**12}, []),
        ({"project": "none"}, []),
        ({"namespace": "none"}, []),
    ):
        assert await listed(served, page_size=size, order=OLDEST, **fields) == expected
        assert await listed(served, page_size=size, **fields) == expected[::-1]


async def test_events_that_come_between_pages_shift_none(served: Served) -> None:
    await served.create("a")
    for number in range(5):
        await served.write("a", Phase.STARTING, message=str(number))
    newest, oldest = [await page(served, page_size=2, order=order) for order in (0, OLDEST)]
    await served.write("a", Phase.RUNNING)
    following = await page(served, page_size=2, page_token=newest.next_page_token)
    assert [one.sequence for one in (*newest.events, *following.events)] == [6, 5, 4, 3]
    rest = await page(served, page_size=10, page_token=oldest.next_page_token, order=OLDEST)
    assert [one.sequence for one in (*oldest.events, *rest.events)] == [1, 2, 3, 4, 5, 6, 7]


async def test_trimmed_history_is_said_and_is_no_error(served: Served) -> None:
    await served.create("still")
    await served.create("a")
    token = (await page(served, page_size=1, order=OLDEST)).next_page_token
    await served.running.store.trim(datetime.now(UTC) + timedelta(days=1))
    await served.write("a", Phase.RUNNING)
    await served.write("a", Phase.STOPPED)
    for fields in ({}, {"page_token": token}, {"project": "demo"}, {"sandbox_id": "a"}):
        answer = await page(served, order=OLDEST, **fields)
        assert ([one.sequence for one in answer.events], answer.first_kept_sequence) == ([3, 4], 3)
    answer = await page(served, sandbox_id="still")
    assert (list(answer.events), answer.first_kept_sequence) == ([], 3)


async def test_a_sandbox_that_never_was_is_not_found(served: Served) -> None:
    await served.create("a")
    served.tenant("other", "default")
    for fields in ({"sandbox_id": "never-was"}, {"sandbox_id": "a"}, {"sandbox_id": "a", "namespace": "second"}):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await page(served, **fields)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert await listed(served) == await listed(served, project="demo") == []


async def test_a_namespace_that_was_taken_away_shows_nothing_more(served: Served) -> None:
    served.tenant("default", "default", "second")
    await served.create("a")
    await served.create("a", namespace="second")
    assert await listed(served) == [2, 1]
    assert await listed(served, namespace="second") == await listed(served, sandbox_id="a", namespace="second") == [2]
    served.tenant("default", "default")
    assert await listed(served) == await listed(served, project="demo") == [1]
    assert await listed(served, namespace="second") == []


@pytest.mark.slow
async def test_a_sandbox_keeps_the_project_of_its_own_when_its_id_is_used_again(served: Served) -> None:
    first = await served.create("a", "before")
    await served.write("a", Phase.TERMINATED, Reason.DELETED, desired=DesiredState.DELETED)
    second = await served.create("a", "after")
    assert await listed(served, project="before") == [2, 1]
    assert await listed(served, project="after") == [3]
    (answer,) = await pages(served, sandbox_id="a", order=OLDEST)
    assert [one.status.uid for one in answer.events] == [first.uid, first.uid, second.uid]
    assert [one.status.project for one in answer.events] == ["before", "before", "after"]


@pytest.mark.slow
async def test_a_page_ends_before_clients_refuse_it(served: Served) -> None:
    await served.create("a")
    for number in range(20):
        await served.write("a", Phase.ERROR, message=f"{number}" + "x" * 400_000)
    found = await pages(served, page_size=1000)
    assert [event.sequence for one in found for event in one.events] == list(range(21, 0, -1))
    assert 3 <= len(found) <= 5
    assert all(one.ByteSize() <= listing.PAGE_BYTES for one in found)


@pytest.mark.slow
async def test_a_page_looks_through_a_bounded_part_of_the_history(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.tenant("default", "default", "second")
    await served.create("rare")
    await served.create("a", namespace="second")
    for number in range(38):
        await served.write("a", Phase.STARTING, namespace="second", message=str(number))
    assert timeline.SCANNED_MOST == 2_000
    monkeypatch.setattr(timeline, "SCANNED_MOST", 7)
    timeline._statements.cache_clear()
    for order, many in ((OLDEST, range(2, 41)), (0, range(40, 1, -1))):
        rare = await pages(served, namespace="default", order=order)
        assert [len(one.events) for one in rare].count(0) == len(rare) - 1 == 5
        assert [event.sequence for one in rare for event in one.events] == [1]
        assert await listed(served, namespace="second", order=order, page_size=3) == list(many)
        assert await listed(served, order=order) == sorted([1, *many], reverse=not order)
    timeline._statements.cache_clear()


async def test_projects_of_older_events_are_those_of_their_specs(empty_database_url: str) -> None:
    opened = connection.connect(empty_database_url, writes=True, busy_timeout=5)
    event = sa.table("status_event", *map(sa.column, ("sequence", "namespace", "sandbox_id", "tenant", "document")))
    event.append_column(sa.column("spec_sequence"))  # type: ignore[arg-type]
    part = sa.table("part", *map(sa.column, ("sequence", "name", "document")))
    names = {"namespace": "default", "sandbox_id": "a", "tenant": "default"}
    with opened.begin() as raw:
        command.upgrade(schema.config(raw), "causes")
        spec = '{"version":2,"project":"apart","image":"x"}'
        raw.execute(sa.insert(part).values(sequence=2, name="spec", document=spec))
        raw.execute(sa.insert(part).values(sequence=2, name="env_names", document="[]"))
        first = '{"id":"a","spec":{"project":"within"}}'
        raw.execute(sa.insert(event).values(sequence=1, document=first, spec_sequence=None, **names))
        for sequence in (2, 3):
            raw.execute(sa.insert(event).values(sequence=sequence, document="{}", spec_sequence=2, **names))
    store.migrate(empty_database_url)
    with opened.begin() as raw:
        found = raw.execute(sa.text("SELECT project, method FROM status_event ORDER BY sequence")).all()
    opened.dispose()
    assert [tuple(one) for one in found] == [("within", None), ("apart", None), ("apart", None)]


ONE = frozenset({"default"})
TWO = frozenset({"default", "second"})


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize(
    ("index", "selection"),
    [
        ("tenant", {"namespaces": ONE}),
        ("tenant", {"namespaces": TWO}),
        ("project", {"namespaces": ONE, "project": "demo"}),
        ("project", {"namespaces": TWO, "project": "demo"}),
        ("sandbox", {"namespaces": ONE, "key": Key("default", "a")}),
        ("sandbox", {"namespaces": TWO, "key": Key("default", "a"), "project": "demo"}),
    ],
)
async def test_both_statements_of_a_page_follow_one_index(
    tmp_path: Path, index: str, selection: dict[str, Any], oldest_first: bool
) -> None:
    selected = store.Selection("default", oldest_first=oldest_first, **selection)

    def plan(reader: store.Reader) -> list[str]:
        found: list[str] = []
        values = timeline.parameters(selected, timeline.Span(0, 9)) | {"most": 5}
        for statement in timeline.statements(selected):
            text = reader._cursor._text(statement)
            found += [one[-1] for one in reader._cursor._raw.execute(f"EXPLAIN QUERY PLAN {text}", values)]
        return found

    async with serving.served(f"sqlite:///{tmp_path}/plan.db", tmp_path) as service:
        details = await service.running.store.read(plan)
    assert sum(f"status_event_of_{index}" in one for one in details) == 2, details
    assert not any("SCAN" in one or "TEMP B-TREE" in one for one in details), details
