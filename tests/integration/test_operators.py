"""Operators through a real gRPC client, on real SQLite and real PostgreSQL: they see all tenants, and change little."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server import store
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.tenant import ANY
from sandbox_server.store import connection, history, schema, search, timeline

from tests.support import served as serving
from tests.support.served import Served
from tests.support.waiting import PATIENCE

SERVICE = pb.DESCRIPTOR.services_by_name["SandboxService"]
READS = {
    "GetStatus",
    "GetSandbox",
    "ListSandboxes",
    "WatchStatus",
    "WaitForPhase",
    "ListEvents",
    "ListVolumes",
    "GetCapabilities",
}
"""Every RPC that is not here changes something: an operator that only reads must not be able to call it."""
SANDBOXES = [("red-1", "a"), ("red-1", "b"), ("red-2", "a"), ("blue-1", "a"), ("blue-1", "ended")]


@pytest.fixture
async def served(database_url: str, tmp_path: Path) -> AsyncIterator[Served]:
    """A service with sandboxes of two tenants, called by an operator that only reads."""
    async with serving.served(database_url, tmp_path) as service:
        for tenant, namespaces in (("red", ("red-1", "red-2")), ("blue", ("blue-1",))):
            service.tenant(tenant, *namespaces)
            for namespace, sandbox_id in SANDBOXES:
                if namespace in namespaces:
                    project = "web" if sandbox_id == "a" else "other"
                    await service.create(sandbox_id, project, namespace=namespace)
        await service.write("ended", Phase.TERMINATED, Reason.DELETED, namespace="blue-1", desired=DesiredState.DELETED)
        operator(service)
        yield service


def operator(served: Served, name: str = "billing", *, writes: bool = False) -> None:
    served.operator(name, "blue-1", "red-1", "red-2", writes=writes)


async def call(served: Served, request: Any) -> Any:
    return await getattr(served.stub, type(request).__name__.removesuffix("Request"))(request, timeout=20 * PATIENCE)


async def refused(served: Served, request: Any) -> tuple[grpc.StatusCode, error_details_pb2.ErrorInfo]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(served, request)
    return caught.value.code(), info(caught.value)


def info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    found = error_details_pb2.ErrorInfo()
    rpc_status.from_call(error).details[0].Unpack(found)  # type: ignore[arg-type,union-attr]
    return found


async def listed(served: Served, **fields: Any) -> list[tuple[str, str]]:
    """The sandboxes of all pages, of which each has one."""
    found: list[tuple[str, str]] = []
    token = ""
    while True:
        page = await call(served, pb.ListSandboxesRequest(page_size=1, page_token=token, **fields))
        found += [(one.namespace, one.sandbox_id) for one in page.sandboxes]
        token = page.next_page_token
        if not token:
            return found


async def events(served: Served, **fields: Any) -> list[int]:
    """The sequences of all pages, of which each has one event."""
    found: list[int] = []
    token = ""
    while True:
        page = await call(served, pb.ListEventsRequest(page_size=1, page_token=token, **fields))
        found += [one.sequence for one in page.events]
        token = page.next_page_token
        if not token:
            return found


async def watched(served: Served, count: int, **fields: Any) -> list[tuple[int, str, str]]:
    """The first messages of a watch: the sequence, the namespace and the id of each, all empty for the marker."""
    stream = served.stub.WatchStatus(pb.WatchStatusRequest(**fields), timeout=20 * PATIENCE)
    found = [await stream.read() for _ in range(count)]
    stream.cancel()
    return [(one.sequence, one.status.namespace, one.status.sandbox_id) for one in found]


@pytest.mark.slow
async def test_lists_have_the_sandboxes_of_all_tenants(served: Served) -> None:
    every_phase = [one for one in pb.Phase.values() if one]
    cases: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
        ({}, SANDBOXES),
        ({"namespace": "red-1"}, SANDBOXES[:2]),
        ({"namespace": "none"}, []),
        ({"tenant": "red"}, SANDBOXES[:3]),
        ({"tenant": "red", "namespace": "blue-1"}, []),
        ({"tenant": "none"}, []),
        ({"project": "web"}, [one for one in SANDBOXES if one[1] == "a"]),
        ({"project": "web", "tenant": "red"}, [("red-1", "a"), ("red-2", "a")]),
        ({"label_selector": "tier=web"}, []),
        ({"label_selector": "!tier", "namespace": "blue-1"}, SANDBOXES[3:]),
    ]
    for fields, expected in cases:
        assert await listed(served, phases=every_phase, **fields) == sorted(expected), fields
        live = sorted(one for one in expected if one[1] != "ended")
        assert await listed(served, **fields) == live, fields
        snapshot = await watched(served, len(live) + 1, **fields)
        assert sorted(one[1:] for one in snapshot[:-1]) == live, fields
        assert snapshot[-1] == (6, "", ""), fields
        ended_too = await watched(served, len(expected) + 1, include_terminated=True, **fields)
        assert sorted(one[1:] for one in ended_too[:-1]) == sorted(expected), fields


@pytest.mark.slow
async def test_events_and_resumed_watches_have_the_events_of_all_tenants(served: Served) -> None:
    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"namespace": "red-1"}, [1, 2]),
        ({"namespace": "blue-1"}, [4, 5, 6]),
        ({"namespace": "none"}, []),
        ({"tenant": "red"}, [1, 2, 3]),
        ({"tenant": "blue", "namespace": "red-1"}, []),
        ({"project": "other"}, [2, 5, 6]),
        ({"project": "other", "tenant": "blue"}, [5, 6]),
        ({"project": "other", "namespace": "blue-1"}, [5, 6]),
        ({"namespace": "red-2", "sandbox_id": "a"}, [3]),
        ({"namespace": "red-2", "sandbox_id": "a", "tenant": "red", "project": "web"}, [3]),
        ({"namespace": "red-2", "sandbox_id": "a", "tenant": "blue"}, []),
    ]

    async def resumed(fields: dict[str, Any], count: int) -> list[int]:
        fields = dict(fields)
        if "sandbox_id" in fields:
            fields["sandbox_ids"] = [fields.pop("sandbox_id")]
        return [one[0] for one in await watched(served, count, after_sequence=0, **fields)]

    for fields, expected in cases:
        assert await events(served, order=pb.EVENT_ORDER_OLDEST_FIRST, **fields) == expected, fields
        assert await events(served, **fields) == expected[::-1], fields
        assert await resumed(fields, len(expected)) == expected, fields
        # As long after the events, when they are no longer in memory.
        served.running.feed.history.forget()
        assert await resumed(fields, len(expected)) == expected, fields


async def test_a_watch_has_what_happens_to_any_tenant_and_resumes(served: Served) -> None:
    stream = served.stub.WatchStatus(pb.WatchStatusRequest(project="web"), timeout=20 * PATIENCE)
    while not (await stream.read()).HasField("snapshot_complete"):
        pass
    await served.write("a", Phase.RUNNING, namespace="blue-1")
    await served.write("b", Phase.RUNNING, namespace="red-1")
    await served.write("a", Phase.RUNNING, namespace="red-2")
    heard = [await stream.read(), await stream.read()]
    assert [(one.sequence, one.status.tenant) for one in heard] == [(7, "blue"), (9, "red")]
    stream.cancel()
    assert [one[0] for one in await watched(served, 1, project="web", after_sequence=7)] == [9]


async def test_a_sandbox_of_any_tenant_is_read_by_its_namespace(served: Served) -> None:
    named = {"namespace": "red-2", "sandbox_id": "a"}
    status = (await call(served, pb.GetStatusRequest(**named))).status
    assert (status.tenant, status.namespace, status.sandbox_id) == ("red", "red-2", "a")
    assert (await call(served, pb.GetSandboxRequest(**named))).sandbox.status == status
    # What is in a sandbox is not for an operator that only reads.
    measured = await call(served, pb.GetStatusRequest(include_usage=True, **named))
    assert (measured.status, measured.usage_missing.reason) == (status, "OPERATOR_READS_ONLY")
    ended = await call(served, pb.GetStatusRequest(namespace="blue-1", sandbox_id="ended"))
    assert (ended.status.tenant, ended.status.phase) == ("blue", pb.PHASE_TERMINATED)
    reached = await call(served, pb.WaitForPhaseRequest(phase=pb.PHASE_CREATING, **named))
    assert (reached.outcome, reached.status.tenant) == (pb.WAIT_OUTCOME_REACHED, "red")
    waiting = asyncio.ensure_future(call(served, pb.WaitForPhaseRequest(phase=pb.PHASE_RUNNING, **named)))
    await asyncio.sleep(0.05)
    await served.write("a", Phase.RUNNING, namespace="red-2")
    assert (await waiting).outcome == pb.WAIT_OUTCOME_REACHED
    for request in (
        pb.GetStatusRequest(namespace="red-1", sandbox_id="none"),
        pb.WaitForPhaseRequest(namespace="none", sandbox_id="a", phase=pb.PHASE_RUNNING),
        pb.ListEventsRequest(namespace="none", sandbox_id="a"),
    ):
        code, found = await refused(served, request)
        assert (code, found.reason) == (grpc.StatusCode.NOT_FOUND, "SANDBOX_NOT_FOUND")


async def test_an_id_without_a_namespace_is_refused(served: Served) -> None:
    operator(served, writes=True)
    for request in (
        pb.GetStatusRequest(sandbox_id="a"),
        pb.GetSandboxRequest(sandbox_id="a"),
        pb.WaitForPhaseRequest(sandbox_id="a", phase=pb.PHASE_RUNNING),
        pb.ListEventsRequest(sandbox_id="a"),
        pb.StopRequest(sandbox_id="a"),
        pb.BatchStopRequest(sandbox_ids=["a"]),
        pb.BatchStopRequest(label_selector="!tier"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(served, request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "namespace: is required with an operator's token" in str(caught.value.details())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watched(served, 1, sandbox_ids=["a"])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("tenant", ["x" * 1025, "re\0d"])
async def test_a_tenant_that_no_database_takes_is_refused(served: Served, tenant: str) -> None:
    for request in (pb.ListSandboxesRequest(tenant=tenant), pb.ListEventsRequest(tenant=tenant)):
        code, _ = await refused(served, request)
        assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_capabilities_say_that_the_caller_is_an_operator(served: Served) -> None:
    found = await call(served, pb.GetCapabilitiesRequest())
    assert (found.tenant, found.operator, found.reads_only, found.default_namespace) == ("", "billing", True, "")
    assert list(found.namespaces) == ["blue-1", "red-1", "red-2"]
    operator(served, writes=True)
    assert not (await call(served, pb.GetCapabilitiesRequest())).reads_only
    served.tenant("red", "red-1")
    found = await call(served, pb.GetCapabilitiesRequest())
    assert (found.tenant, found.operator, found.reads_only) == ("red", "", False)


@pytest.mark.slow
async def test_an_operator_that_only_reads_is_refused_every_mutation(served: Served) -> None:
    before = (await call(served, pb.ListEventsRequest())).sequence
    for method in sorted(set(SERVICE.methods_by_name) - READS):
        described = SERVICE.methods_by_name[method]
        assert "request_id" in described.input_type.fields_by_name, method
        # The request is not valid either: the caller is not told so.
        request = GetMessageClass(described.input_type)(request_id="no uuid", namespace="red-1")
        metadata = {"operator": "billing", "namespace": "red-1"}
        if "sandbox_id" in described.input_type.fields_by_name:
            request.sandbox_id = metadata["sandbox_id"] = "a"  # type: ignore[attr-defined]
        code, found = await refused(served, request)
        assert (code, found.reason) == (grpc.StatusCode.PERMISSION_DENIED, "OPERATOR_READS_ONLY"), method
        assert dict(found.metadata) == metadata, method
        assert (await call(served, pb.ListEventsRequest())).sequence == before, method


async def test_an_operator_that_may_write_acts_for_the_tenant_of_the_sandbox(served: Served) -> None:
    operator(served, "support", writes=True)
    request_id = str(uuid.uuid4())
    stopped = await call(served, pb.StopRequest(namespace="red-2", sandbox_id="a", request_id=request_id))
    assert (stopped.sandbox.status.tenant, stopped.sandbox.desired_state) == ("red", pb.DESIRED_STATE_STOPPED)
    again = await call(served, pb.StopRequest(namespace="red-2", sandbox_id="a", request_id=request_id))
    assert again.sandbox.status.sequence == stopped.sandbox.status.sequence
    batch = await call(served, pb.BatchStopRequest(namespace="blue-1", sandbox_ids=["a", "none"]))
    assert [one.sandbox.desired_state for one in batch.results] == [pb.DESIRED_STATE_STOPPED, 0]
    assert batch.results[1].error.reason == "SANDBOX_NOT_FOUND"
    selected = await call(served, pb.BatchDeleteRequest(namespace="red-1", label_selector="!tier"))
    assert [one.sandbox_id for one in selected.results] == ["a", "b"]
    served.tenant("red", "red-1", "red-2")
    newest = (await call(served, pb.ListEventsRequest(namespace="red-2"))).events[0]
    assert newest.cause == pb.Cause(kind=pb.CAUSE_KIND_MUTATION, actor="support", method="Stop", request_id=request_id)
    # The request ids of the tenant are its own.
    started = await call(served, pb.StartRequest(namespace="red-2", sandbox_id="a", request_id=request_id))
    assert started.sandbox.desired_state == pb.DESIRED_STATE_RUNNING


async def test_no_operator_creates_sandboxes(served: Served) -> None:
    operator(served, "support", writes=True)
    request = pb.CreateSandboxRequest(namespace="red-1", spec=pb.SandboxSpec(project="web"))
    code, found = await refused(served, request)
    assert (code, found.reason) == (grpc.StatusCode.PERMISSION_DENIED, "OPERATOR_OWNS_NOTHING")
    assert dict(found.metadata) == {"operator": "support", "namespace": "red-1"}


@pytest.mark.slow
async def test_a_tenant_sees_nothing_of_another_by_the_filter(served: Served) -> None:
    # A namespace changes hands; what is in it still belongs to the former tenant.
    served.tenant("blue", "blue-1", "red-1")
    for fields in ({"tenant": "red"}, {"tenant": "red", "namespace": "red-1"}, {"namespace": "red-1"}):
        assert await listed(served, **fields) == []
        assert await listed(served, phases=[pb.PHASE_TERMINATED, pb.PHASE_CREATING], **fields) == []
        assert await events(served, **fields) == []
        assert await watched(served, 1, **fields) == [(6, "", "")]
    assert await listed(served, tenant="blue") == await listed(served) == [("blue-1", "a")]
    assert await events(served, tenant="blue") == await events(served) == [6, 5, 4]
    assert await events(served, namespace="blue-1", sandbox_id="a", tenant="red") == []
    for sandbox_id in ("b", "none"):
        code, found = await refused(served, pb.GetStatusRequest(namespace="red-1", sandbox_id=sandbox_id))
        assert (code, found.reason) == (grpc.StatusCode.NOT_FOUND, "SANDBOX_NOT_FOUND")
        assert dict(found.metadata) == {"namespace": "red-1", "sandbox_id": sandbox_id, "sandbox_ids": sandbox_id}


@pytest.mark.parametrize("tenant", [ANY, "red"])
def test_a_list_of_all_namespaces_follows_the_primary_key(tmp_path: Path, tenant: str) -> None:
    path = tmp_path / "a.db"
    schema.check(f"sqlite:///{path}")
    selection = store.Search(tenant, None, frozenset(Phase))
    with contextlib.closing(connection.Database(f"sqlite:///{path}", writes=False, busy_timeout=1)) as database:
        text, values = database._with_values(search.page(selection, search.EVERYWHERE, Key("a", "b"), 10))
        with database.begin() as cursor:
            plan = [detail for *_, detail in cursor._raw.execute(f"EXPLAIN QUERY PLAN {text}", values)]
    assert plan[0] == "SEARCH sandbox USING PRIMARY KEY ((namespace,id)>(?,?))"
    assert all(one.startswith("SEARCH") and "sequence=?" in one for one in plan[1:])


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize(
    ("index", "selection"),
    [
        ("sqlite_autoindex_status_event_1 (sequence>? AND sequence<?)", store.Selection(ANY, None)),
        ("sqlite_autoindex_status_event_1 (sequence>? AND sequence<?)", store.Selection(ANY, None, project="web")),
        ("INDEX status_event_of_namespace", store.Selection(ANY, frozenset({"red-1"}))),
        ("INDEX status_event_of_namespace", store.Selection(ANY, frozenset({"red-1"}), project="web")),
        ("INDEX status_event_of_sandbox", store.Selection(ANY, frozenset({"red-1"}), Key("red-1", "a"))),
        ("INDEX status_event_of_tenant", store.Selection("red", None)),
        ("INDEX status_event_of_project", store.Selection("red", None, project="web")),
    ],
)
async def test_events_of_all_tenants_follow_an_index(
    tmp_path: Path, index: str, selection: store.Selection, oldest_first: bool
) -> None:
    def plan(reader: store.Reader) -> list[str]:
        values = timeline.parameters(selection, timeline.Span(0, 9)) | {"most": 5, "after": 0, "until": 9}
        values |= {"of_namespace": "red-1"}
        found: list[str] = []
        statements = timeline._statements(
            selection.key is not None,
            selection.tenant != ANY,
            selection.project != "",
            len(selection.namespaces) if selection.namespaces is not None and selection.key is None else None,
            oldest_first,
        )
        for statement in statements:
            text = reader._cursor._text(statement)
            found += [one[-1] for one in reader._cursor._raw.execute(f"EXPLAIN QUERY PLAN {text}", values)]
        return found

    async with serving.served(f"sqlite:///{tmp_path}/plan.db", tmp_path) as service:
        details = await service.running.store.read(plan)
    assert sum(index in one for one in details) == 2, details
    assert not any("SCAN" in one or "TEMP B-TREE" in one for one in details), details


@pytest.mark.parametrize(
    ("index", "statement"),
    [
        ("sqlite_autoindex_status_event_1 (sequence>? AND sequence<?)", history.OF_ALL),
        ("status_event_of_namespace", history.OF_NAMESPACE),
    ],
)
async def test_a_watch_of_all_tenants_that_is_behind_follows_an_index(
    tmp_path: Path, index: str, statement: Any
) -> None:
    values = {"of_namespace": "red-1", "after": 0, "until": 9, "most": 5}

    def plan(reader: store.Reader) -> list[str]:
        text = reader._cursor._text(statement)
        return [one[-1] for one in reader._cursor._raw.execute(f"EXPLAIN QUERY PLAN {text}", values)]

    async with serving.served(f"sqlite:///{tmp_path}/plan.db", tmp_path) as service:
        details = await service.running.store.read(plan)
    assert any(index in one for one in details), details
    assert not any("SCAN" in one for one in details), details
