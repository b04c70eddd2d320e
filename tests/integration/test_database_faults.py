"""The service as a process over a database that is locked, read-only, restarted or of another release."""

import asyncio
import base64
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import sqlalchemy as sa
from alembic import command
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import sandbox_pb2_grpc
from sandbox_client import AsyncClient, errors
from sandbox_server.store import connection, schema

from scripts import image_run
from tests.support import programs, samples
from tests.support.log import whole_log
from tests.support.ports import free_port
from tests.support.postgres import Postgres
from tests.support.service import Service, without_coverage
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow

KEYS = base64.b64encode(b"k" * 32).decode()


class Caller:
    """Calls a service and repeats nothing."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._stub = sandbox_pb2_grpc.SandboxServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def create(self, name: str, timeout: float = 60 * PATIENCE) -> pb.Sandbox:
        """Creates a sandbox. The request id follows from the name."""
        spec = pb.SandboxSpec(project="demo", image="any", command=["/bin/sleep", "1000"])
        request_id = str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
        request = pb.CreateSandboxRequest(sandbox_id=name, request_id=request_id, spec=spec)
        made: pb.Sandbox = self._stub.CreateSandbox(request, timeout=timeout, wait_for_ready=True).sandbox
        return made

    def refused(self, name: str, timeout: float = 60 * PATIENCE) -> tuple[str, str]:
        """Returns the code and the reason of a create that fails."""
        with pytest.raises(grpc.RpcError) as caught:
            self.create(name, timeout)
        error = errors.from_rpc(caught.value)
        return error.code.name, error.reason

    def uids(self) -> dict[str, str]:
        request = pb.ListSandboxesRequest(page_size=1000)
        found = self._stub.ListSandboxes(request, timeout=60 * PATIENCE, wait_for_ready=True).sandboxes
        return {one.sandbox_id: one.uid for one in found}


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A PostgreSQL that may be restarted: no other test uses it."""
    made = Postgres()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def nowhere(tmp_path: Path) -> tuple[str, ...]:
    """Flags for an engine that reaches no cluster, so that the log has mutations alone."""
    kubeconfig = samples.kubeconfig(tmp_path, free_port())
    return ("--engine", "kubernetes", "--kubeconfig", str(kubeconfig), "--encryption-keys", KEYS)


@pytest.mark.fault(35)
def test_mutations_over_a_sqlite_file_that_is_locked_for_ten_seconds_fail_whole_and_take_effect_once(
    make_service: Callable[..., Service], nowhere: tuple[str, ...]
) -> None:
    service = make_service(*nowhere).start()
    caller = Caller(service.address)
    before = caller.create("before")
    with contextlib.closing(sqlite3.connect(service.folder / "data" / "sandbox.db", isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        until = time.monotonic() + 10
        with ThreadPoolExecutor(2) as pool:
            patient = pool.submit(caller.refused, "patient")
            hurried = pool.submit(caller.refused, "hurried", 1)
            assert hurried.result()[0] == "DEADLINE_EXCEEDED"
            assert patient.result() == ("UNAVAILABLE", "DATABASE_UNAVAILABLE")
        # Reads go on.
        assert caller.uids() == {"before": before.uid}
        time.sleep(max(0.0, until - time.monotonic()))
        blocker.execute("ROLLBACK")
    made = {name: caller.create(name).uid for name in ("before", "patient", "hurried")}
    assert made["before"] == before.uid
    assert caller.uids() == made


READ_ONLY = """
import asyncio, pathlib, sys
from sandbox_server.domain import errors
from tests.support import samples
from tests.support.opened import Opened
async def main(folder):
    opened = Opened(f"sqlite:///{folder}/a.db")
    await opened.store.open(opened.committed.extend)
    # The connection that writes is opened for the first mutation.
    for mode in (0o444, 0o644):
        for file in folder.iterdir():
            file.chmod(mode)
        try:
            await opened.insert(samples.sandbox())
            print("written")
        except errors.Unavailable as error:
            print(error.reason)
    print(len((await opened.store.load())[1]))
    await opened.store.close()
asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


@pytest.mark.fault(36)
def test_a_database_file_that_is_read_only_for_a_while_is_unavailable_and_recovers() -> None:
    folder = Path(tempfile.mkdtemp(prefix="read-only"))
    if os.geteuid() == 0:
        os.chown(folder, 1001, 1001)
    words = [*image_run.command("1001:1001"), sys.executable, "-c", READ_ONLY, str(folder)]
    done = subprocess.run(words, env={**without_coverage(), "PYTHONPATH": "."}, capture_output=True, text=True)
    shutil.rmtree(folder)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if "database_failed" not in line] == [
        "DATABASE_UNAVAILABLE",
        "written",
        "1",
    ]


@pytest.mark.fault(37)
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_mutations_while_postgresql_is_restarted_fail_with_unavailable_and_their_repeat_takes_effect_once(
    make_service: Callable[..., Service], server: Postgres, nowhere: tuple[str, ...], end: str
) -> None:
    service = make_service(*nowhere, "--database-url", server.database()).start()
    caller = Caller(service.address)
    made: dict[str, str] = {}
    refused: set[tuple[str, str]] = set()
    ended = False

    def work(worker: int) -> None:
        number = 0
        while not ended or number < 3:
            name = f"made-{worker}-{number}"
            try:
                made[name] = caller.create(name).uid
                number += 1
            except grpc.RpcError as error:
                told = errors.from_rpc(error)
                refused.add((told.code.name, told.reason))
            time.sleep(0.02)

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(work, number) for number in range(4)]
        for _ in range(3):
            time.sleep(0.5)
            getattr(server, end)()
            time.sleep(0.5)
            server.start()
        time.sleep(0.5)
        ended = True
        for one in workers:
            one.result()
    assert refused == {("UNAVAILABLE", "DATABASE_UNAVAILABLE")}
    assert caller.uids() == made

    async def log() -> list[pb.SandboxStatus]:
        async with AsyncClient(service.address) as client:
            return await whole_log(client, (await client.page()).sequence)

    mutations = [one.sandbox_id for one in asyncio.run(log()) if one.reason == pb.REASON_ACCEPTED]
    assert sorted(mutations) == sorted(made)


@pytest.mark.fault(40)
def test_the_service_refuses_a_schema_of_another_release_and_says_what_to_run(empty_database_url: str) -> None:
    engine = connection.connect(empty_database_url, writes=True, busy_timeout=5)
    with engine.begin() as raw:
        command.upgrade(schema.config(raw), "causes")
    words = ("--database-url", empty_database_url, "--encryption-keys", KEYS, "--listen", f"127.0.0.1:{free_port()}")
    older = programs.run("sandbox-server", *words)
    assert (older.returncode, older.stderr) == (
        1,
        "sandbox-server: the database has an older schema: run `sandbox-server migrate` with the same settings\n",
    )
    assert programs.run("sandbox-server", "migrate", *words).returncode == 0
    schema.check(empty_database_url)
    with engine.begin() as raw:
        raw.execute(sa.text("UPDATE alembic_version SET version_num = 'of-a-newer-release'"))
        raw.execute(sa.text("UPDATE compatibility SET oldest = 'of-a-newer-release'"))
    engine.dispose()
    newer = programs.run("sandbox-server", *words)
    assert (newer.returncode, newer.stderr) == (
        1,
        "sandbox-server: the database has a newer schema than this release may use: run the newer release\n",
    )
