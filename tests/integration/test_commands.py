"""The commands beside serve, and what the service's own loops do: each in a process of its own."""

import asyncio
import base64
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sandbox_server import store
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.store import schema

from tests.support import programs, relay, samples
from tests.support.ports import free_port
from tests.support.service import Service
from tests.support.waiting import PATIENCE, eventually

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
OLD, NEW = b"o" * 32, b"n" * 32


def ran(*words: str) -> str:
    """What a command says; it must be right."""
    done = programs.run("sandbox-server", *words)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


async def opened(path: Path, *keys: bytes) -> store.Store:
    made = store.Store(f"sqlite:///{path}", store.Cipher(list(keys)))
    await made.open(lambda _committed: None)
    return made


@pytest.mark.slow
def test_migrate_makes_the_schema(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    ran("migrate", "--database-url", url)
    with closing(sqlite3.connect(tmp_path / "a.db")) as raw:
        tables = {name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"sandbox", "status_event", "watch_log", "request", "alembic_version"} <= tables
    schema.check(url)


@pytest.mark.slow
async def test_rotate_keys_encrypts_with_the_first_key(tmp_path: Path) -> None:
    before = await opened(tmp_path / "a.db", OLD)
    made = await before.write(lambda _: samples.new(samples.sandbox(env_names=("A",)), {"A": "1"}))
    await before.close()
    keys = ",".join(base64.b64encode(one).decode() for one in (NEW, OLD))
    words = ("rotate-keys", "--database-url", f"sqlite:///{tmp_path}/a.db", "--encryption-keys", keys)
    assert await asyncio.to_thread(ran, *words) == "1 environments encrypted anew\n"
    assert await asyncio.to_thread(ran, *words) == "0 environments encrypted anew\n"
    after = await opened(tmp_path / "a.db", NEW)
    assert await after.read(lambda reader: reader.env(made.sandbox.key)) == {"A": "1"}
    await after.close()


async def gone(path: Path) -> None:
    """Leaves a history of two entries and a request, all written long ago."""
    database = await opened(path, OLD)
    made = await database.write(lambda _: samples.new(samples.sandbox()), store.Request("default", "r1", b"payload"))

    def end(_reader: store.Reader) -> store.Write:
        status = samples.status(phase=Phase.TERMINATED, reason=Reason.DELETED)
        return samples.write(samples.changed(made, status=status, desired=DesiredState.DELETED))

    ended = await database.write(end)
    assert (made.sequence, ended.sequence) == (1, 2)
    await database.close()
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("UPDATE status_event SET at = '2020-01-01 00:00:00'")
        raw.execute("UPDATE request SET created_at = '2020-01-01 00:00:00'")
        raw.commit()


@pytest.mark.slow
def test_the_service_forgets_old_history_and_requests_and_says_when_it_goes(
    make_service: Callable[..., Service],
) -> None:
    service = make_service("--encryption-keys", base64.b64encode(OLD).decode())
    path = service.folder / "data" / "sandbox.db"
    asyncio.run(gone(path))

    def left() -> tuple[int, int]:
        with closing(sqlite3.connect(path)) as raw:
            events = raw.execute("SELECT count(*) FROM status_event WHERE sequence = 1").fetchone()
            return (*events, *raw.execute("SELECT count(*) FROM request").fetchone())

    assert left() == (1, 1)
    service.start()
    eventually(lambda: left() == (0, 0))
    with grpc.insecure_channel(service.address) as channel:
        told = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30 * PATIENCE)
        while next(told).status != SERVING:
            pass
        assert service.process is not None
        service.process.terminate()
        # While the connection is there: what a caller has not read goes with it.
        assert next(told).status == NOT_SERVING
        assert service.process.wait(timeout=30 * PATIENCE) == 0


@pytest.mark.slow
@pytest.mark.fault(37)
def test_silent_database_is_reported_by_the_health(
    make_service: Callable[..., Service], postgres: Callable[[], str]
) -> None:
    with relay.postgresql(postgres()) as (between, url):
        keys = base64.b64encode(OLD).decode()
        service = make_service("--database-url", url, "--encryption-keys", keys).start()
        with grpc.insecure_channel(service.address) as channel:
            told = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60 * PATIENCE)

            def comes(status: int) -> bool:
                return any(one.status == status for one in told)

            assert comes(SERVING)
            between.hold_answers()
            assert comes(NOT_SERVING)
            between.cut()
            assert comes(SERVING)
        assert service.terminate() == 0


@pytest.mark.slow
def test_a_service_that_never_saw_its_engine_answers_stale_and_is_not_serving(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    nowhere = samples.kubeconfig(tmp_path, free_port())
    flags = ("--engine", "kubernetes", "--kubeconfig", str(nowhere), "--log-level", "error")
    service = make_service(*flags).start()
    with service.client() as client, grpc.insecure_channel(service.address) as channel:
        made = client.create("demo")
        assert made.status.stale
        assert client.status(made.sandbox_id).stale
        assert all(one.status.stale for one in client.list())
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5 * PATIENCE)
        assert answer.status == NOT_SERVING
    assert service.terminate() == 0
    # It has said neither that it serves (info) nor what it misses (warning).
    assert service.log.read_text() == ""


@pytest.mark.fault(51)
@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.slow
def test_a_log_line_is_one_line_and_moves_no_cursor(form: str) -> None:
    said = "one\ntwo\r\x1b[31m\x7f\x9b2J\u202e\u2028é"
    program = (
        "import structlog; from sandbox_server import __main__, settings\n"
        f"__main__.configure_logs(settings.load(['--log-format', {form!r}]))\n"
        f"structlog.get_logger('sandbox_server').info('told', message={said!a})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30 * PATIENCE)
    (line,) = done.stderr.splitlines()
    assert line.isprintable()
    assert "told" in line
    assert form == "console" or json.loads(line)["message"] == said


@pytest.mark.parametrize("namespace", ["A B", "-a", "a/b"])
@pytest.mark.slow
def test_a_namespace_that_cannot_be_is_not_rendered(namespace: str) -> None:
    request = json.dumps({"namespace": namespace, "spec": {"project": "demo"}})
    done = programs.run("sandbox-server", "render", input=request)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("sandbox-server: namespace: must be ")
