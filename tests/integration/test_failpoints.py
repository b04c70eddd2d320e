"""The service is killed at each of its failpoints, again and again, and keeps what it promises when it is started again."""

import ast
import asyncio
import base64
import contextlib
import dataclasses
import json
import os
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import snapshot_pb2
from sandbox_client import AsyncClient, Kind
from sandbox_server import failpoints, store
from sandbox_server.domain.event import Event
from sandbox_server.engines.kubernetes import manifests
from sandbox_server.importing.report import Outcome
from sandbox_server.store import connection, housekeeping, schema

from tests.support import former_objects, homes, programs, samples
from tests.support.former_database import Former
from tests.support.imported import Ground
from tests.support.log import whole_log
from tests.support.marked import MARK, end_programs
from tests.support.marked import programs as marked
from tests.support.opened import KEY, Opened
from tests.support.ports import free_port
from tests.support.scripted import CLAIMS, PODS, SETS
from tests.support.scripted_api import ScriptedApi
from tests.support.service import Service
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow

SERVER = Path(failpoints.__file__).parent
NUMBERS = (1, 2, 4, 8, 16)
"""At which hit each process in turn is killed. They grow, so that each process gets further than the one before."""
WITHIN = 30 * PATIENCE
A, B = "crash-a", "crash-b"
NEW_KEY = b"n" * 32
SPEC = pb.SandboxSpec(image="any", command=["/bin/sh", "-c", "while sleep 0.2; do :; done", MARK])

COMMON = ["before_commit", "after_commit", "after_publish", "before_answer", "before_act", "after_act"]
LOCAL = [
    "local_folder_made",
    "local_volume_labelled",
    "local_volume_made",
    "local_process_spawned",
    "local_process_recorded",
    "local_process_started",
    "local_entry_removed",
    "local_folder_removed",
]
SNAPSHOTS = [
    "snapshot_before_commit",
    "snapshot_after_commit",
    "snapshot_before_act",
    "snapshot_after_act",
    "local_copy_begun",
    "local_copy_entry",
    "local_copy_labelled",
    "local_copy_made",
    "verification_before_act",
    "verification_after_act",
    "local_scratch_counted",
    "local_disk_hidden",
    "local_disk_entry_removed",
]
SCHEDULES = ["schedule_before_commit", "schedule_after_commit", "last_snapshot_before_say", *SNAPSHOTS[:4]]
KUBERNETES = ["kubernetes_before_write", "kubernetes_after_write"]
SHUTDOWN = [
    "shutdown_handed_over",
    "shutdown_watches_ended",
    "shutdown_calls_ended",
    "shutdown_tasks_ended",
    "shutdown_closed",
]


def crashes(*names: str) -> pytest.MarkDecorator:
    """Runs a test for each name, marked with it."""
    return pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.crash(name)) for name in names])


def armed(name: str, number: int = 1) -> dict[str, str]:
    return {"SANDBOX_FAILPOINTS": f"{name}=kill@{number}"}


def hits() -> list[str]:
    """Returns the name at each place in the source."""
    calls = [
        node
        for path in sorted(SERVER.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoints.hit"
    ]
    return [ast.literal_eval(one.args[0]) for one in calls]


def test_every_failpoint_has_one_place_and_every_place_a_name() -> None:
    assert sorted(hits()) == sorted(failpoints.NAMES)


class Killed:
    """The service, killed at the failpoint `name` in process after process, and started again each time."""

    def __init__(self, service: Service, name: str) -> None:
        self.service = service
        self.kills = 0
        self._name = name
        self._numbers = iter(NUMBERS)
        self._start()
        self._task = asyncio.create_task(self._supervise())

    def _start(self) -> None:
        number = next(self._numbers, 0)
        self.service.env = armed(self._name, number) if number else {}
        self.service.start(wait=False)

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(0.02)
            assert self.service.process is not None
            code = self.service.process.poll()
            if code is not None:
                # Only a service that was asked to end ends by itself.
                assert code in ((0, -9) if self._name in SHUTDOWN else (-9,)), self.service.log.read_text()[-3000:]
                self.kills += code == -9
                self._start()

    def terminate(self) -> None:
        assert self.service.process is not None
        self.service.process.terminate()

    async def end(self) -> None:
        """Kills the service no more."""
        assert not self._task.done(), self._task.exception()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@dataclasses.dataclass
class Story:
    """What a caller asks for and is told while the service is killed. Each mutation is repeated with its request id."""

    client: AsyncClient
    told: list[pb.Sandbox] = dataclasses.field(default_factory=list)
    repeats: list[Callable[[], Any]] = dataclasses.field(default_factory=list)

    async def ask(self, method: str, *words: str, until: str, **payload: Any) -> None:
        """Makes a mutation, and waits for the phase that it leads to."""
        payload["request_id"] = str(uuid.uuid4())

        async def repeat() -> pb.Sandbox:
            made: pb.Sandbox = await getattr(self.client, method)(*words, **payload)
            return made

        made = await repeat()
        self.told.append(made)
        self.repeats.append(repeat)
        await self.client.wait_until(made.sandbox_id, until, generation=made.status.generation, timeout=WITHIN)

    async def tell(self, between: Callable[[], None]) -> None:
        for name in (A, B):
            await self.ask("create", "demo", sandbox_id=name, spec=SPEC, env={"ID": name}, until="RUNNING")
            between()
        await self.ask("update_env", A, set={"N": "1"}, until="RUNNING")
        between()
        await self.ask("stop", B, until="STOPPED")
        between()
        await self.ask("start", B, until="RUNNING")
        between()
        await self.ask("delete", A, until="TERMINATED")

    async def check(self, heard: list[tuple[int, pb.SandboxStatus]]) -> None:
        """What was acknowledged is kept, in its order; each request took effect once; the watch has the whole log."""
        generations = {name: [one.status.generation for one in self.told if one.sandbox_id == name] for name in (A, B)}
        assert generations == {A: [1, 2, 3], B: [1, 2, 3]}
        for sandbox, repeat in zip(self.told, self.repeats, strict=True):
            again = await repeat()
            assert (again.uid, again.status.generation) == (sandbox.uid, 3)
        last = (await self.client.page()).sequence
        log = await whole_log(self.client, last)
        assert len({one.uid for one in log}) == 2
        async with asyncio.timeout(WITHIN):
            while not heard or heard[-1][0] < last:
                await asyncio.sleep(0.02)
        # The sandbox that is left may have changed since.
        assert [sequence for sequence, _ in heard[:last]] == list(range(1, last + 1))
        assert [status for _, status in heard[:last]] == log
        for sandbox in self.told:
            of_generation = [
                one for one in log if (one.uid, one.generation) == (sandbox.uid, sandbox.status.generation)
            ]
            assert {one.desired_state for one in of_generation} == {sandbox.desired_state}


async def run(service: Service, name: str) -> None:
    """Tells the story to a service that is killed at a failpoint."""
    killed = Killed(service, name)
    heard: list[tuple[int, pb.SandboxStatus]] = []

    async def watch() -> None:
        async with AsyncClient(service.address, contact_timeout=WITHIN) as client:
            async for event in client.watch(after_sequence=0):
                assert event.kind is Kind.CHANGE
                assert event.status is not None
                heard.append((event.sequence, event.status))

    async with AsyncClient(service.address, contact_timeout=WITHIN, timeout=WITHIN) as client:
        watching = asyncio.create_task(watch())
        story = Story(client)
        await story.tell(killed.terminate if name in SHUTDOWN else lambda: None)
        await story.check(heard)
        assert not watching.done()
        watching.cancel()
        await killed.end()
    assert killed.kills > 0


@pytest.mark.timeout(400)
@pytest.mark.fault(1)
@pytest.mark.fault(2)
@crashes(*COMMON, *LOCAL, *SHUTDOWN)
async def test_killed_at_a_failpoint_the_service_keeps_its_promises(
    make_service: Callable[..., Service], name: str
) -> None:
    service = make_service("--resync", "1")
    try:
        await run(service, name)
        # One sandbox is left: its folder and one process.
        async with asyncio.timeout(WITHIN):
            while sorted(marked().values()) != [B]:
                await asyncio.sleep(0.1)
        assert [folder.name for folder in service.sandboxes()] == [B]
    finally:
        end_programs()


@pytest.mark.timeout(400)
@pytest.mark.fault(106)
@crashes(*SNAPSHOTS)
async def test_killed_at_a_failpoint_the_service_takes_restores_clones_verifies_and_removes_each_disk_once(
    make_service: Callable[..., Service], name: str
) -> None:
    service = make_service("--resync", "1")

    def home(sandbox_id: str) -> Path:
        (folder,) = [one for one in service.sandboxes() if one.name == sandbox_id]
        return folder / "volume" / "home"

    def files(folder: Path) -> dict[str, str]:
        return {str(one.relative_to(folder)): one.read_text() for one in folder.rglob("*") if one.is_file()}

    killed = Killed(service, name)
    try:
        async with AsyncClient(service.address, contact_timeout=WITHIN, timeout=WITHIN) as client:

            async def once(method: str, *words: Any, **payload: Any) -> Any:
                """Makes a mutation, and repeats it with its request id once it has taken effect."""
                payload["request_id"] = str(uuid.uuid4())
                made = await getattr(client, method)(*words, **payload)
                again = await getattr(client, method)(*words, **payload)
                assert again.uid == made.uid
                return made

            await once("create", "demo", sandbox_id=A, spec=SPEC)
            await client.wait_until(A, "RUNNING", timeout=WITHIN)
            for number in range(20):
                (home(A) / f"folder-{number % 3}").mkdir(exist_ok=True)
                (home(A) / f"folder-{number % 3}" / f"{number}").write_text(f"{number}")
            before = files(home(A))
            taken = await client.wait_for_snapshot(await once("create_snapshot", A), timeout=WITHIN)
            await once("verify_snapshot", taken)
            counted = (await client.wait_for_verification(taken, timeout=WITHIN)).verification
            assert (counted.files, counted.folders, counted.sha256) == (20, 3, counted.expected_sha256)
            await once("clone", A, clone_id="crash-c")
            (home(A) / "later").write_text("later")
            await once("create", "demo", sandbox_id=B, snapshot_id=taken.snapshot_id, spec=SPEC)
            await client.verify_snapshot(taken)
            await once("delete_snapshot", taken)
            for one in (B, "crash-c"):
                await client.wait_until(one, "RUNNING", timeout=WITHIN)
            await client.wait_for_snapshot(taken, "DELETED", timeout=WITHIN)
            assert files(home(B)) == before
            assert {**before, **files(home("crash-c"))} == files(home("crash-c"))
            assert len([one async for one in client.snapshots()]) == 0
        await killed.end()
    finally:
        end_programs()
    assert killed.kills > 0
    data = service.sandboxes()[0].parents[2]
    assert [*data.glob("snapshots/*/*"), *data.glob("verifications/*/*")] == []
    assert [one for one in data.glob("sandboxes/*/*/*") if one.name == "new" or one.name.startswith("going-")] == []


def set_back(file: Path, by: timedelta) -> None:
    """Has everything of schedules begin earlier, as if the service had not run since."""
    with contextlib.closing(sqlite3.connect(file)) as opened, opened:
        for table in ("schedule", "schedule_sandbox"):
            for number, text in opened.execute(f"SELECT rowid, document FROM {table}").fetchall():
                document = json.loads(text)
                document["since"] = (datetime.fromisoformat(document["since"]) - by).isoformat()
                opened.execute(f"UPDATE {table} SET document = ? WHERE rowid = ?", (json.dumps(document), number))


@pytest.mark.timeout(400)
@pytest.mark.fault(1)
@crashes(*SCHEDULES)
async def test_killed_at_a_failpoint_the_service_works_each_slot_once_and_takes_the_last_snapshot(
    make_service: Callable[..., Service], name: str
) -> None:
    service = make_service("--resync", "1")
    minute = (datetime.now(UTC) - timedelta(minutes=10)).minute
    killed = None
    try:
        service.start()
        async with AsyncClient(service.address, contact_timeout=WITHIN, timeout=WITHIN) as client:
            await client.create("demo", sandbox_id=A, spec=SPEC)
            await client.wait_until(A, "RUNNING", timeout=WITHIN)
            made = await client.create_schedule("hourly", f"hourly :{minute:02}", sandbox=A)
            file = next(service.sandboxes()[0].parents[2].glob("*.db"))
            async with asyncio.timeout(WITHIN):
                while not await asyncio.to_thread(covered, file):
                    await asyncio.sleep(0.1)
            service.terminate()
            set_back(file, timedelta(hours=3))
            killed = Killed(service, name)
            async with asyncio.timeout(WITHIN):
                while not (found := await client.get_schedule(made)).HasField("last_time"):
                    await asyncio.sleep(0.1)
            (taken,) = [one async for one in client.snapshots()]
            await client.wait_for_snapshot(taken, timeout=WITHIN)
            assert taken.snapshot_id == f"{A}-{found.last_time.ToDatetime():%Y%m%dt%H%M}"
            assert found.missed == 2
            changed = await client.update_schedule(made, before_delete=True)
            assert (changed.missed, changed.last_time) == (2, found.last_time)
            (folder,) = service.sandboxes()
            (folder / "volume" / "home" / "last").write_text("words")
            await client.delete(A)
            await client.wait_until(A, "TERMINATED", timeout=WITHIN)
            await client.wait_for_snapshot(taken, "DELETED", timeout=WITHIN)
            (last,) = [one async for one in client.snapshots()]
            assert (last.state, last.outlives_sandbox) == (snapshot_pb2.SNAPSHOT_STATE_READY, True)
            (copy,) = folder.parents[2].glob(f"snapshots/default/{last.uid}/**/last")
            assert copy.read_text() == "words"
            assert (await client.get_schedule(made)).missed == 2
        await killed.end()
    finally:
        end_programs()
    assert killed.kills > 0


def covered(file: Path) -> bool:
    """Whether a schedule is known to cover a sandbox."""
    with contextlib.closing(sqlite3.connect(file)) as opened:
        return bool(opened.execute("SELECT 1 FROM schedule_sandbox").fetchall())


@contextlib.asynccontextmanager
async def scripted() -> AsyncIterator[ScriptedApi]:
    api = ScriptedApi()
    await api.start()
    try:
        yield api
    finally:
        await api.stop()


@pytest.mark.timeout(400)
@pytest.mark.fault(3)
@pytest.mark.fault(4)
@crashes(*COMMON, *KUBERNETES)
async def test_killed_at_a_failpoint_over_kubernetes_the_service_keeps_its_promises(
    make_service: Callable[..., Service], tmp_path: Path, name: str
) -> None:
    async with scripted() as api:
        flags = ("--engine", "kubernetes", "--kubeconfig", str(api.kubeconfig(tmp_path)), "--resync", "1")
        await run(make_service(*flags), name)
        left = [name for found in api.objects.values() for name in found]
        assert len(left) == 7
        assert all(B in name for name in left)
        (stateful_set,) = api.objects[SETS].values()
        (pod,) = api.objects[PODS].values()
        assert {one["metadata"]["annotations"][manifests.GENERATION] for one in (stateful_set, pod)} == {"3"}


@pytest.mark.timeout(200)
@crashes("home_sent", "home_verified")
async def test_files_of_a_deployment_are_moved_by_the_process_after_one_that_was_killed(
    make_service: Callable[..., Service], tmp_path: Path, name: str
) -> None:
    async with scripted() as api:
        api.kubelet.folder = tmp_path
        former_objects.put(api, former_objects.objects("deployment.yaml"))
        home = api.kubelet.home(former_objects.pod_of(api, former_objects.OLDER))
        homes.fill(home)
        files = homes.snapshot(home)
        flags = ("--engine", "kubernetes", "--kubeconfig", str(api.kubeconfig(tmp_path)))
        killed = Killed(make_service(*flags), name)
        words = ("adopt", *flags, "--data-dir", str(killed.service.folder / "data"), "--namespace", "default")
        await asyncio.to_thread(killed.service.wait)
        adopted = await asyncio.to_thread(programs.run, "sandbox-server", *words, "--restart", "now")
        assert adopted.returncode == 0, adopted.stderr
        async with AsyncClient(killed.service.address, timeout=WITHIN, contact_timeout=WITHIN) as client:
            await client.wait_until(former_objects.OLDER, "RUNNING", timeout=WITHIN)
        await killed.end()
        assert killed.kills >= 1
        (claim,) = api.objects[CLAIMS].values()
        assert homes.snapshot(api.kubelet.disk(claim["metadata"]["uid"])) == files
        assert len(api.starts) == 1


def older(url: str) -> None:
    """Makes the schema of an earlier release, with an event whose project the migration has to find."""
    engine = connection.connect(url, writes=True, busy_timeout=5)
    with engine.begin() as raw:
        command.upgrade(schema.config(raw), "causes")
        values = '(1, \'default\', \'a\', \'default\', \'{"id":"a","spec":{"project":"kept"}}\')'
        raw.execute(
            sa.text(f"INSERT INTO status_event (sequence, namespace, sandbox_id, tenant, document) VALUES {values}")
        )
    engine.dispose()


@crashes("migrated_before_commit")
def test_a_migration_that_is_killed_is_made_by_the_next(empty_database_url: str, name: str) -> None:
    older(empty_database_url)
    words = ("migrate", "--database-url", empty_database_url)
    killed = programs.run("sandbox-server", *words, env=os.environ | armed(name))
    assert killed.returncode == -9
    with pytest.raises(store.SchemaMismatch, match="older"):
        schema.check(empty_database_url)
    assert programs.run("sandbox-server", *words).returncode == 0
    schema.check(empty_database_url)
    engine = connection.connect(empty_database_url, writes=False, busy_timeout=5)
    with engine.begin() as raw:
        assert raw.scalar(sa.text("SELECT project FROM status_event")) == "kept"
    engine.dispose()


async def fill(opened: Opened, count: int) -> list[Event]:
    """Makes so many sandboxes and changes each once. Returns their last events."""
    await opened.store.open(opened.committed.extend)
    made = await asyncio.gather(
        *(opened.insert(samples.sandbox(f"demo-{number}", env_names=("A",)), {"A": "1"}) for number in range(count))
    )
    last = await asyncio.gather(*(opened.update(samples.mutated(one)) for one in made))
    await opened.store.close()
    return sorted(last, key=lambda one: one.sequence)


async def left(opened: Opened) -> list[Event]:
    """Returns the last event of every sandbox. Fails if an environment is not as it was."""
    await opened.store.open(opened.committed.extend)
    events = (await opened.store.load())[1]
    for one in events:
        key = one.sandbox.key
        assert await opened.store.read(lambda reader, key=key: reader.env(key)) == {"A": "1"}  # type: ignore[misc]
    await opened.store.close()
    return sorted(events, key=lambda one: one.sequence)


@crashes("trimmed_before_commit", "trimmed_page")
async def test_a_trim_that_is_killed_leaves_whole_pages_and_the_next_goes_on(
    make_service: Callable[..., Service], tmp_path: Path, name: str
) -> None:
    kubeconfig = samples.kubeconfig(tmp_path, free_port())
    keys = base64.b64encode(KEY).decode()
    service = make_service("--engine", "kubernetes", "--kubeconfig", str(kubeconfig), "--encryption-keys", keys)
    file = service.folder / "data" / "sandbox.db"
    count = housekeeping.PAGE // 2 + 20
    last = await fill(Opened(f"sqlite:///{file}"), count)

    def stored() -> tuple[int, int]:
        with contextlib.closing(sqlite3.connect(file)) as raw:
            (trimmed,) = raw.execute("SELECT trimmed_sequence FROM watch_log").fetchone()
            (events,) = raw.execute("SELECT count(*) FROM status_event").fetchone()
            return trimmed, events

    with contextlib.closing(sqlite3.connect(file)) as raw:
        raw.execute("UPDATE status_event SET at = '2020-01-01 00:00:00'")
        raw.commit()
    service.env = armed(name)
    service.start(wait=False)
    assert service.process is not None
    assert await asyncio.to_thread(service.process.wait, WITHIN) == -9
    page = housekeeping.PAGE if name == "trimmed_page" else 0
    # The last event of each sandbox stays.
    assert stored() == (page, 2 * count - min(page, count))
    service.env = {}
    await asyncio.to_thread(service.start)
    async with asyncio.timeout(WITHIN):
        while stored() != (2 * count, count):
            await asyncio.sleep(0.05)
    service.kill()
    assert await left(Opened(f"sqlite:///{file}")) == last


@crashes("reencrypted_before_commit", "reencrypted_page")
async def test_a_rotation_of_keys_that_is_killed_leaves_every_environment_readable_and_the_next_goes_on(
    database_url: str, name: str
) -> None:
    count = housekeeping.ENVIRONMENTS + 10
    last = await fill(Opened(database_url), count)
    keys = ",".join(base64.b64encode(one).decode() for one in (NEW_KEY, KEY))
    words = ("rotate-keys", "--database-url", database_url, "--encryption-keys", keys)
    killed = await asyncio.to_thread(programs.run, "sandbox-server", *words, env=os.environ | armed(name))
    assert killed.returncode == -9
    assert await left(Opened(database_url, store.Cipher([NEW_KEY, KEY]))) == last
    done = await asyncio.to_thread(programs.run, "sandbox-server", *words)
    again = count - (housekeeping.ENVIRONMENTS if name == "reencrypted_page" else 0)
    assert (done.returncode, done.stdout) == (0, f"{again} environments encrypted anew\n")
    assert await left(Opened(database_url, store.Cipher([NEW_KEY]))) == last


@crashes("imported_facts")
async def test_an_import_that_is_killed_is_completed_by_the_next(
    database_url: str, postgres: Callable[[], str], tmp_path: Path, name: str
) -> None:
    former, opened, api = Former(postgres()), Opened(database_url), ScriptedApi()
    await opened.store.open(opened.committed.extend)
    await opened.insert(samples.sandbox("one-x1"))
    await opened.store.close()
    await api.start()
    try:
        ground = Ground(api, tmp_path, database_url)
        ground.makes("one-x1")
        former.add("a", "one-x1")
        words = ground.words(former)
        killed = await asyncio.to_thread(programs.run, "sandbox-server", *words, env=os.environ | armed(name))
        assert killed.returncode == -9
        assert ground.facts().keys() == {"a"}
        first, second = [(await ground.run(former)).lines[0] for _ in range(2)]
    finally:
        await api.stop()
    assert (first.outcome, len(first.labels)) == (Outcome.UPDATED, 3)
    assert (second.outcome, len(second.labels)) == (Outcome.UNCHANGED, 0)
