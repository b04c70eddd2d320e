"""What other releases have stored is served by this one, and kept by it.

The files in `stored` were written by the release of commit a2c8888, with its own requests and its own answers to what is
asked here. Nothing in them is ever changed.
"""

import asyncio
import contextlib
import dataclasses
import inspect
import itertools
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf import field_mask_pb2, json_format
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server import feed, manager, store
from sandbox_server.access.sandboxes import Sandboxes
from sandbox_server.domain import check, errors
from sandbox_server.domain.event import Kind
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Addresses, Key, ObjectNames, Sandbox
from sandbox_server.domain.snapshot import Snapshot
from sandbox_server.domain.spec import SandboxSpec
from sandbox_server.domain.tenant import Tenant
from sandbox_server.leases.sole import Sole
from sandbox_server.rpc import render, servicer
from sandbox_server.settings import Settings
from sandbox_server.store import documents, schema, snapshot_documents

from tests.support import samples
from tests.support.variants import some
from tests.support.waiting import PATIENCE

STORED = Path(__file__).parent / "stored"
ANSWERS = json.loads((STORED / "answers.json").read_text())
TENANTS = {name: Tenant(name, tuple(one["namespaces"])) for name, one in ANSWERS["tenants"].items()}
MINE = TENANTS["team-a"]
SETTINGS = Settings(
    default_image="registry.example/sandbox:1",
    allowed_annotations="example.com/",  # type: ignore[arg-type]
    allowed_runtime_classes="gvisor",  # type: ignore[arg-type]
    allowed_storage_classes="fast",  # type: ignore[arg-type]
)
EVERY_PHASE = [one for one in pb.Phase.values() if one]
RUNNING = Key("ns-a", "running")


class Engine:
    """As much of an engine as callers need."""

    def synced(self, _namespace: str) -> bool:
        return True

    def addresses(self, _sandbox: Sandbox) -> Addresses:
        return Addresses(dns_name="made-by-this-release")

    async def resizes_in_place(self, _namespace: str) -> bool:
        return False


ADDED = {"tenant", "labels", "desiredState", "createTime", "resources", "storageSize"}
"""Fields of a status that the contract did not have when the answers were stored."""


def as_then(answer: Any) -> Any:
    """Returns an answer in JSON without the fields that have been added to a status since."""
    if isinstance(answer, list):
        return [as_then(one) for one in answer]
    if not isinstance(answer, dict):
        return answer
    added = ADDED if "phase" in answer else set()
    return {name: as_then(value) for name, value in answer.items() if name not in added}


class Call:
    """A call whose messages are kept."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def time_remaining(self) -> None:
        return None

    async def write(self, message: bytes) -> None:
        self.messages.append(as_then(json_format.MessageToDict(pb.WatchStatusResponse.FromString(message))))


class Service:
    """The service below gRPC, without a reconciler."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = store.Store(f"sqlite:///{folder}/sandbox.db", store.Cipher.from_file(folder / "encryption.key"))
        self.feed = feed.Feed(self.store, render.Encoder(), Pace(heartbeat=60))
        engine: Any = Engine()
        sandboxes = manager.StatefulSetManager(self.store, self.feed, engine, engine, Sole(engine))
        entered = Sandboxes(self.feed, engine, Pace())
        nobody: Any = None
        self._servicer = servicer.Servicer(
            sandboxes, entered, nobody, engine, SETTINGS.defaults, SETTINGS.policy, Pace(), samples.DEPLOYMENT
        )

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator["Service"]:
        documents._SPECS.clear()
        await self.store.open(self.feed.publish)
        self.feed.load(*await self.store.load())
        yield self
        await self.store.close()

    async def ask(self, request: Any, tenant: Tenant = MINE) -> dict[str, Any]:
        """The answer to a request, as JSON has it."""
        name = type(request).__name__.removesuffix("Request")
        call: Any = Call()
        answer = await getattr(self._servicer, name)(tenant, request, call)
        response = getattr(pb, f"{name}Response")
        made = response.FromString(answer) if isinstance(answer, bytes) else response(**answer)
        return as_then(json_format.MessageToDict(made))

    async def watch(self, count: int, tenant: Tenant = MINE, **selection: Any) -> list[dict[str, Any]]:
        """The first messages of a watch."""
        call: Any = Call()
        watching = asyncio.create_task(self._servicer.WatchStatus(tenant, pb.WatchStatusRequest(**selection), call))
        async with asyncio.timeout(30 * PATIENCE):
            while len(call.messages) < count and not watching.done():
                await asyncio.sleep(0.001)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        return list(call.messages)

    def raw(self, statement: str, *values: Any) -> list[Any]:
        """What a statement finds that is run beside the store."""
        with contextlib.closing(sqlite3.connect(self.folder / "sandbox.db")) as raw:
            found = raw.execute(statement, values).fetchall()
            raw.commit()
            return found

    def document(self, key: Key) -> dict[str, Any]:
        """The document of the last event of a sandbox."""
        statement = "SELECT document FROM status_event WHERE namespace = ? AND sandbox_id = ? ORDER BY sequence DESC"
        return json.loads(self.raw(statement, *key)[0][0])  # type: ignore[no-any-return]

    def store_document(self, key: Key, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Changes the document of the last event of a sandbox as a newer release may have written it."""
        document = self.document(key)
        change(document)
        where = "sequence = (SELECT sequence FROM sandbox WHERE namespace = ? AND id = ?)"
        self.raw(f"UPDATE status_event SET document = ? WHERE {where}", json.dumps(document), *key)
        return document


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stored database after its migration."""
    folder = tmp_path_factory.mktemp("stored")
    for name in ("sandbox.db", "encryption.key"):
        shutil.copy(STORED / name, folder)
    url = f"sqlite:///{folder}/sandbox.db"
    with pytest.raises(store.SchemaMismatch, match="sandbox-server migrate"):
        schema.check(url)
    store.migrate(url)
    schema.check(url)
    return folder


@pytest.fixture
def service(migrated: Path, tmp_path: Path) -> Service:
    shutil.copytree(migrated, tmp_path / "stored")
    return Service(tmp_path / "stored")


@pytest.mark.parametrize("name", TENANTS)
async def test_stored_sandboxes_are_served_as_the_release_that_stored_them_did(service: Service, name: str) -> None:
    answers, tenant = ANSWERS["tenants"][name], TENANTS[name]
    async with service.opened():
        listed = await service.ask(pb.ListSandboxesRequest(phases=EVERY_PHASE), tenant)
        assert listed["sandboxes"] == answers["sandboxes"]
        for one in answers["sandboxes"]:
            names = {"sandbox_id": one["sandboxId"], "namespace": one["namespace"]}
            assert (await service.ask(pb.GetSandboxRequest(**names), tenant))["sandbox"] == one
            assert (await service.ask(pb.GetStatusRequest(**names), tenant))["status"] == one["status"]


@pytest.mark.parametrize("name", TENANTS)
async def test_stored_events_are_watched_as_the_release_that_stored_them_did(service: Service, name: str) -> None:
    answers, tenant = ANSWERS["tenants"][name], TENANTS[name]
    async with service.opened():
        events = answers["watch"]
        assert await service.watch(len(events), tenant, after_sequence=0) == events
        assert await service.watch(len(events) - 3, tenant, after_sequence=int(events[2]["sequence"])) == events[3:]
        live = [one["status"] for one in answers["sandboxes"] if one["status"]["phase"] != "PHASE_TERMINATED"]
        *snapshot, complete = await service.watch(len(live) + 1, tenant)
        assert [one["status"] for one in snapshot] == live
        assert complete["snapshotComplete"]["count"] == str(len(live))


async def test_stored_requests_are_repeated_without_effect_and_environments_are_read(service: Service) -> None:
    async with service.opened():
        before = service.feed.sequence
        for one in ANSWERS["requests"]:
            request = json_format.ParseDict(one["request"], getattr(pb, f"{one['rpc']}Request")())
            answer = await service.ask(request, TENANTS[one["tenant"]])
            assert answer["sandbox"]["sandboxId"] == one["request"]["sandboxId"]
        assert service.feed.sequence == before
        for name, env in ANSWERS["env"].items():
            key = Key(*name.split("/"))
            assert await service.store.read(lambda reader, key=key: reader.env(key)) == env  # type: ignore[misc]


async def test_reason_of_a_stored_event_without_a_cause_tells_the_cause(service: Service) -> None:
    async with service.opened():
        events = await service.store.events(0, 100)
        mutations = [one for one in events if one.cause.kind is Kind.MUTATION]
        assert [one.cause.actor for one in mutations] == [one["tenant"] for one in ANSWERS["requests"]]
        assert {one.cause.kind for one in events} == {Kind.MUTATION, Kind.OBSERVED}


async def test_stored_sandboxes_are_changed_and_their_volumes_adopted(service: Service) -> None:
    async with service.opened():
        before = service.feed.sequence
        await service.ask(pb.StopRequest(sandbox_id="running", expected_generation=2))
        adopted = await service.ask(
            pb.CreateSandboxRequest(sandbox_id="kept", adopt_volume=True, spec=pb.SandboxSpec(project="demo"))
        )
        assert adopted["sandbox"]["status"]["phase"] == "PHASE_CREATING"
        again = await service.ask(pb.CreateSandboxRequest(sandbox_id="deleted", spec=pb.SandboxSpec(project="demo")))
        events = await service.store.events(before, 10)
        assert [one.sandbox.id for one in events] == ["running", "kept", "deleted"]
        assert events[1].sandbox.volume_uid == "disk-kept"
        assert again["sandbox"]["uid"] == events[2].sandbox.uid
        assert [service.document(one.sandbox.key)["version"] for one in events] == [documents.VERSION] * 3


async def test_names_of_objects_are_stored_and_stay(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async with service.opened():
        made = await service.ask(pb.CreateSandboxRequest(sandbox_id="named", spec=pb.SandboxSpec(project="demo")))
        assert service.document(Key("ns-a", "named"))["objects"]["service"] == made["sandbox"]["serviceName"]
    # A release to come names the objects of new sandboxes in another way.
    names = ObjectNames("s", "v", "e", "a", "t")
    monkeypatch.setattr(ObjectNames, "of", lambda _: names)
    async with service.opened():
        stopped = await service.ask(pb.StopRequest(sandbox_id="named"))
        assert stopped["sandbox"]["serviceName"] == "named-service"
        other = await service.ask(pb.CreateSandboxRequest(sandbox_id="later", spec=pb.SandboxSpec(project="demo")))
        assert other["sandbox"]["serviceName"] == "v"


@pytest.mark.parametrize(
    ("stored", "kinds", "version"),
    [
        ("members.json", (documents.Document, documents.Spec), documents.VERSION),
        ("snapshot_members.json", (snapshot_documents.Document,), snapshot_documents.VERSION),
    ],
)
def test_members_of_documents_are_those_of_their_version(stored: str, kinds: tuple[Any, ...], version: int) -> None:
    _, components = msgspec.json.schema_components(kinds, ref_template="{name}")
    members = sorted(f"{name}.{one}" for name, kind in components.items() for one in kind.get("properties", ()))
    versions = json.loads((STORED / stored).read_text())
    assert members == versions[str(version)]
    for before, after in itertools.pairwise(sorted(versions, key=int)):
        assert set(versions[before]) < set(versions[after])


def test_documents_have_every_field_of_a_snapshot() -> None:
    assert {*snapshot_documents.Document.__struct_fields__} == {one.name for one in dataclasses.fields(Snapshot)}


def test_documents_have_every_field_of_a_sandbox_and_its_spec() -> None:
    fields = {one.name for one in dataclasses.fields(Sandbox)}
    of_the_event = {"changed"}
    assert {*documents.Document.__struct_fields__, *documents.PARTS} == fields | of_the_event
    assert {*documents.Spec.__struct_fields__} == {one.name for one in dataclasses.fields(SandboxSpec)}


def tightened(name: str) -> Any:
    """The rule of that name, which finds fault with every value."""
    rule = getattr(check, name)
    if isinstance(rule, check.Kind):
        return dataclasses.replace(rule, fits=lambda _: None)

    def refuse(field: Any = "field", *_: Any) -> Iterator[errors.Violation]:
        yield errors.Violation(str(field), "is against the rules of today")

    return refuse


RULES = [
    name
    for name, rule in vars(check).items()
    if isinstance(rule, check.Kind)
    or (inspect.isgeneratorfunction(rule) and rule.__module__ == check.__name__ and not name.startswith("_"))
]
NO_RULES_OF_A_SPEC = {"own_key", "env_change", "namespace"}


@pytest.mark.parametrize("rule", some(RULES, *range(0, len(RULES), 5)))
async def test_stored_sandbox_is_served_however_a_rule_is_tightened(
    service: Service, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, rule, tightened(rule))
    async with service.opened():
        listed = await service.ask(pb.ListSandboxesRequest(phases=EVERY_PHASE))
        assert listed["sandboxes"] == ANSWERS["tenants"]["team-a"]["sandboxes"]
        known = next(one for one in listed["sandboxes"] if one["sandboxId"] == "running")
        assert (await service.ask(pb.GetSandboxRequest(sandbox_id="running")))["sandbox"] == known
        events = ANSWERS["tenants"]["team-a"]["watch"]
        assert await service.watch(len(events), after_sequence=0) == events
        # What a request says is judged by the rules of today, the name that it asks for too.
        if rule != "sandbox_id":
            answer = await service.ask(pb.StopRequest(sandbox_id="running"))
            assert answer["sandbox"]["desiredState"] == "DESIRED_STATE_STOPPED"
        if rule not in NO_RULES_OF_A_SPEC:
            create = json_format.ParseDict(ANSWERS["requests"][0]["request"], pb.CreateSandboxRequest())
            with pytest.raises(errors.Invalid):
                await service.ask(create)


def newer(document: dict[str, Any]) -> None:
    """A document as a release to come may write it."""
    document["version"] = documents.VERSION + 1
    document["epoch"] = 7
    document["objects"] = dataclasses.asdict(ObjectNames.of(document["id"]))
    document["addresses"]["zone"] = {"name": "z"}
    status = document["status"]
    status["reason"] = 977
    status["refusal"] = [{"reason": 978}]
    status["last_exit"]["finished_at"] = "later"
    condition = {"type": 99, "status": True, "reason": 977, "transition_time": "2026-01-02T03:04:05Z", "message": ""}
    status["conditions"].append(condition)


@pytest.mark.fault(75)
async def test_sandbox_of_a_newer_release_is_served(service: Service) -> None:
    service.store_document(RUNNING, newer)
    spec = json.loads(service.raw("SELECT document FROM part WHERE name = 'spec' AND sequence = 1")[0][0])
    service.raw(
        "UPDATE part SET document = ? WHERE name = 'spec' AND sequence = 1",
        json.dumps(spec | {"version": documents.VERSION + 1, "gpu": 1}),
    )
    async with service.opened():
        status = (await service.ask(pb.GetStatusRequest(sandbox_id="running")))["status"]
        assert (status["phase"], status["reason"], status.get("remedy")) == ("PHASE_RUNNING", 977, None)
        assert status["conditions"][-1]["type"] == 99
        *_, last = await service.watch(6, sandbox_ids=["running"], after_sequence=0)
        assert last["status"]["reason"] == 977
        before = service.feed.catalogue.get(RUNNING)
        assert before is not None
        assert before.event.sandbox.status.reason is Reason(977)
        assert (await service.ask(pb.GetSandboxRequest(sandbox_id="running")))["sandbox"]["spec"]["image"] == spec[
            "image"
        ]


@pytest.mark.fault(75)
async def test_what_a_newer_release_stored_is_kept_in_the_next_events(service: Service) -> None:
    stored = service.store_document(RUNNING, newer)
    async with service.opened():

        def moved(reader: store.Reader) -> store.Write:
            last = reader.last(RUNNING)
            assert last is not None
            status = dataclasses.replace(last.sandbox.status, phase=Phase.UPDATING, restart_count=2)
            return store.Write(dataclasses.replace(last.sandbox, status=status), last.sequence, last.cause)

        sequence = (await service.store.write(moved)).sequence
        expected = stored | {
            "status": stored["status"] | {"phase": Phase.UPDATING.value, "restart_count": 2},
            "changed": {"sequence": sequence, "fields": ["phase", "restart_count"]},
        }
        assert service.document(RUNNING) == expected
        # Two events in one transaction, and the status as this release writes it.
        await asyncio.gather(service.ask(pb.StopRequest(sandbox_id="running")), service.store.write(moved))
        written = service.document(RUNNING)
        assert written["version"] == documents.VERSION + 1
        assert (written["epoch"], written["addresses"]) == (7, stored["addresses"])
        assert written["status"]["refusal"] == [{"reason": 978}]
        assert written["status"]["last_exit"] == stored["status"]["last_exit"]
        assert written["status"]["conditions"][-1] == stored["status"]["conditions"][-1]
        assert written["status"]["reason"] == Reason.ACCEPTED.value


@pytest.mark.fault(75)
async def test_what_a_newer_release_stored_of_a_spec_is_kept_when_the_spec_changes(service: Service) -> None:
    stored = json.loads(service.raw("SELECT document FROM part WHERE name = 'spec' AND sequence = 1")[0][0])
    stored |= {"version": documents.VERSION + 1, "gpu": {"count": 1}}
    stored["resources"]["devices"] = "2"
    service.raw("UPDATE part SET document = ? WHERE name = 'spec' AND sequence = 1", json.dumps(stored))

    def update(number: int) -> Any:
        changed = pb.SandboxSpec(labels={"number": str(number)}, resources=pb.Resources(cpu_limit=str(number)))
        mask = field_mask_pb2.FieldMask(paths=["labels", "resources.cpu_limit"])
        return service.ask(pb.UpdateSandboxRequest(sandbox_id="running", spec=changed, update_mask=mask))

    async with service.opened():
        # The first two in one transaction.
        await asyncio.gather(update(3), update(4))
        await update(5)
    specs = [
        json.loads(one) for (one,) in service.raw("SELECT document FROM part WHERE name = 'spec' ORDER BY sequence")
    ]
    expected = stored | {"labels": {"number": "5"}, "resources": stored["resources"] | {"cpu_limit": "5"}}
    assert specs[-1] == expected
    assert [one.get("gpu") for one in specs[-3:]] == [{"count": 1}] * 3


async def test_fields_of_a_newer_release_about_a_former_process_or_sandbox_are_not_kept_for_the_next(
    service: Service,
) -> None:
    service.store_document(RUNNING, newer)
    async with service.opened():

        def exited(reader: store.Reader) -> store.Write:
            last = reader.last(RUNNING)
            assert last is not None
            assert last.sandbox.status.last_exit is not None
            last_exit = dataclasses.replace(last.sandbox.status.last_exit, code=1)
            status = dataclasses.replace(last.sandbox.status, last_exit=last_exit)
            return store.Write(dataclasses.replace(last.sandbox, status=status), last.sequence, last.cause)

        await service.store.write(exited)
        assert "finished_at" not in service.document(RUNNING)["status"]["last_exit"]
        ended = service.store_document(Key("ns-a", "deleted"), lambda document: document.update(version=9, epoch=7))
        await service.ask(pb.CreateSandboxRequest(sandbox_id="deleted", spec=pb.SandboxSpec(project="demo")))
        made = service.document(Key("ns-a", "deleted"))
        assert made["uid"] != ended["uid"]
        assert (made["version"], made.get("epoch")) == (documents.VERSION, None)


async def test_fields_changed_by_a_stored_event_are_not_known_and_those_of_the_next_are(service: Service) -> None:
    async with service.opened():
        stored = await service.store.events(0, 100)
        assert {one.changed for one in stored} == {None}
        mine = len(ANSWERS["tenants"]["team-a"]["watch"])
        assert "changedFields" not in str(await service.watch(mine, after_sequence=0))
        await service.ask(pb.StopRequest(sandbox_id="running"))
        (event,) = await service.store.events(len(stored), 100)
        assert {"desired_state", "generation"} <= set(event.changed or ())
        (message,) = await service.watch(1, after_sequence=len(stored))
        assert "desiredState" in message["changedFields"].split(",")


async def test_changed_fields_that_an_older_release_left_as_they_were_are_about_no_other_event(
    service: Service,
) -> None:
    async with service.opened():
        await service.ask(pb.StopRequest(sandbox_id="running"))
        (former,) = await service.store.events(service.feed.sequence - 1, 1)
        await service.ask(pb.StartRequest(sandbox_id="running"))
    kept = {"sequence": former.sequence, "fields": list(former.changed or ())}
    service.store_document(RUNNING, lambda document: document.update(changed=kept))
    async with service.opened():
        *_, last = await service.store.events(former.sequence - 1, 10)
        assert former.changed
        assert last.changed is None
