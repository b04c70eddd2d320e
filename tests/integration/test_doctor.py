"""`sandbox-server doctor` on this machine: the operator's files, the database and the local engine."""

import asyncio
import base64
import functools
import json
import os
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sandbox_server import store
from sandbox_server.doctor import files, local
from sandbox_server.doctor.report import Result, Status
from sandbox_server.domain.pace import Pace

from tests.support import programs, relay, samples
from tests.support.certificates import certificate
from tests.support.examined import Found, examined, not_well, only
from tests.support.ports import free_port
from tests.support.samples import CANARY
from tests.support.service import Service
from tests.support.waiting import eventually

OLD, NEW = b"o" * 32, b"n" * 32

HELD = r"replicas: 1 of release [0-9.]+, each up for [0-9]+ s or longer; each of the namespaces is held and observed"


def text(*keys: bytes) -> str:
    return ",".join(base64.b64encode(one).decode() for one in keys)


async def examine(tmp_path: Path, **settings: Any) -> Found:
    return await examined({}, **{"data_dir": tmp_path / "data", **settings})


async def stored(url: str, *keys: bytes) -> None:
    """Leaves a sandbox with an environment in a database."""
    opened = store.Store(url, store.Cipher(list(keys)))
    await opened.open(lambda _committed: None)
    await opened.write(lambda _: samples.new(samples.sandbox(env_names=("A",)), {"A": CANARY}))
    await opened.close()


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """The files below a folder, but for the index of SQLite's log, in which each reader has a lock."""
    paths = [one for one in folder.rglob("*") if one.is_file() and not one.name.endswith("-shm")]
    return {str(one): (one.stat().st_mtime_ns, one.read_bytes()) for one in paths}


# --- the command


@pytest.mark.slow
def test_all_is_well_before_the_first_start_and_nothing_is_made(tmp_path: Path) -> None:
    done = programs.run("sandbox-server", "doctor", "--data-dir", str(tmp_path / "data"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].endswith(" ok")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_all_is_well_beside_a_running_service_which_notices_nothing(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    with service.client() as client:
        client.wait_until(client.create("demo", env={"A": CANARY}), "RUNNING")
    data = service.folder / "data"
    words = ("doctor", "--data-dir", str(data), "--output", "json")
    done = programs.run("sandbox-server", *words)
    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert {one["status"] for one in found} == {"ok"}
    assert CANARY not in done.stdout
    with service.client() as client:
        client.create("demo")
    assert service.terminate() == 0


@pytest.mark.slow
def test_failure_exits_1_with_its_remedy_and_without_secrets(tmp_path: Path) -> None:
    secret = base64.b64encode(CANARY.encode()).decode()
    url = f"postgresql://user:{CANARY}@127.0.0.1:{free_port()}/name?sslpassword={CANARY}"
    env = os.environ | {
        "SANDBOX_DATABASE_URL": url,
        "SANDBOX_ENCRYPTION_KEYS": secret,
        "SANDBOX_DATA_DRI": "/data",
        "SANDBOX_NOTHING_LIKE_IT": CANARY,
    }
    done = programs.run("sandbox-server", "doctor", "--data-dir", str(tmp_path), "--output", "json", env=env)
    assert done.returncode == 1
    assert CANARY not in done.stdout + done.stderr
    assert secret not in done.stdout + done.stderr
    results = {(one["check"], one["message"].partition(" ")[0]): one for one in json.loads(done.stdout)}
    assert results["settings", "SANDBOX_DATA_DRI"]["remedy"] == "rename it to SANDBOX_DATA_DIR"
    assert results["settings", "SANDBOX_NOTHING_LIKE_IT"]["remedy"] == "remove it"
    assert results["keys", "encryption"]["status"] == "failure"
    assert "Connection refused" in results["database", "database-url:"]["message"]
    assert {one["message"] for one in results.values() if one["check"] == "schema"} == {"the database does not answer"}


def test_output_that_is_neither_is_refused(tmp_path: Path) -> None:
    done = programs.run("sandbox-server", "doctor", "--data-dir", str(tmp_path), "--output", "yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("sandbox-server: output: Input should be 'table' or 'json'")


# --- the database


@pytest.mark.slow
async def test_schema_of_an_empty_and_of_a_migrated_database(tmp_path: Path, empty_database_url: str) -> None:
    settings = {"database_url": empty_database_url, "encryption_keys": text(OLD)}
    found = await examine(tmp_path, **settings)
    assert (only(found, "schema").status, only(found, "schema").message) == (Status.OK, store.Schema.EMPTY.value)
    await asyncio.to_thread(store.migrate, empty_database_url)
    found = await examine(tmp_path, **settings)
    assert only(found, "schema").message == "this release can use it"
    assert not_well(found) == []


@pytest.mark.parametrize(
    ("revision", "remedy"),
    [("first", "run `sandbox-server migrate` with the same settings"), ("9999", "run the newer release")],
)
async def test_schema_of_another_release_is_a_failure(
    tmp_path: Path, database_url: str, revision: str, remedy: str
) -> None:
    await asyncio.to_thread(store.migrate, database_url)
    engine = sa.create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as opened:
        opened.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
        opened.execute(sa.text("UPDATE compatibility SET oldest = :revision"), {"revision": revision})
    engine.dispose()
    found = await examine(tmp_path, database_url=database_url, encryption_keys=text(OLD))
    assert (only(found, "schema").status, only(found, "schema").remedy) == (Status.FAILURE, remedy)
    assert only(found, "stored keys").status is Status.NOT_CHECKED


async def test_stored_key_that_is_not_given_is_a_failure_and_an_old_one_a_warning(
    tmp_path: Path, database_url: str
) -> None:
    await stored(database_url, OLD)
    check = functools.partial(examine, tmp_path, database_url=database_url)
    assert only(await check(encryption_keys=text(OLD)), "stored keys").status is Status.OK
    old = only(await check(encryption_keys=text(NEW, OLD)), "stored keys")
    assert (old.status, old.remedy) == (Status.WARNING, "run `sandbox-server rotate-keys`")
    missing = only(await check(encryption_keys=text(NEW)), "stored keys")
    assert missing.status is Status.FAILURE
    assert "a key that is not given" in missing.message


async def test_key_file_that_was_lost_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    await stored(f"sqlite:///{tmp_path}/data/sandbox.db", OLD)
    found = await examine(tmp_path)
    assert only(found, "stored keys").status is Status.FAILURE
    assert not (tmp_path / "data" / "encryption.key").exists()


@pytest.mark.slow
async def test_sqlite_file_is_only_read(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    url = f"sqlite:///{data}/sandbox.db"
    await stored(url, OLD)
    before = content(tmp_path)
    assert only(await examine(tmp_path, encryption_keys=text(OLD)), "stored keys").status is Status.OK
    assert content(tmp_path) == before
    assert sorted(one.name for one in data.iterdir()) == ["sandbox.db"]
    # A service that has it open, and has written what is in the log alone.
    opened = store.Store(url, store.Cipher([OLD]))
    await opened.open(lambda _committed: None)
    await opened.write(lambda _: samples.new(samples.sandbox("demo-2", env_names=("A",)), {"A": "1"}))
    before = content(tmp_path)
    assert only(await examine(tmp_path, encryption_keys=text(OLD)), "stored keys").status is Status.OK
    assert content(tmp_path) == before
    await opened.close()


async def test_file_that_is_no_database_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"nothing of the kind" * 100)
    found = await examine(tmp_path, database_url=f"sqlite:///{tmp_path}/a.db")
    assert only(found, "database").status is Status.FAILURE
    assert "not a database" in only(found, "database").message


async def test_database_url_that_cannot_be_read_is_a_failure_of_its_check_alone(tmp_path: Path) -> None:
    found = await examine(tmp_path, database_url=f"postgresql://u:{CANARY}@x@127.0.0.1/name", encryption_keys=text(OLD))
    (result,) = not_well({key: found[key] for key in found if key[0] == "database"})
    assert "write an @ in the name or the password as %40" in result.message
    assert CANARY not in str(found)
    assert only(found, "schema").status is Status.NOT_CHECKED
    assert found["isolation", ""]


@pytest.mark.slow
async def test_silent_database_is_a_failure_within_the_time_limit(tmp_path: Path, postgres: Callable[[], str]) -> None:
    with relay.postgresql(postgres()) as (between, url):
        between.hold_answers()
        pace = Pace(checked_within=0.3)
        found = await examine(tmp_path, database_url=url, encryption_keys=text(OLD), base_pace=pace)
    assert only(found, "database").message == "no answer within 0.3 s"
    assert only(found, "clock", "database").status is Status.NOT_CHECKED


@pytest.mark.slow
def test_leases_of_a_running_service_on_postgresql(
    make_service: Callable[..., Service], postgres: Callable[..., str], migrated: str, tmp_path: Path
) -> None:
    settings = ("--database-url", postgres(migrated), "--encryption-keys", text(OLD))

    def check() -> Result:
        found = asyncio.run(examine(tmp_path, database_url=settings[1], encryption_keys=settings[3]))
        assert only(found, "stored keys").status is Status.OK
        return only(found, "leases")

    assert check().message == "no replica runs"
    service = make_service(*settings).start()
    eventually(lambda: re.fullmatch(HELD, check().message), within=20)
    assert service.terminate() == 0
    assert check().message == "no replica runs"


@pytest.fixture
def limited(postgres: Callable[..., str], migrated: str) -> str:
    """The URL of a migrated database for a user that may only read."""
    url = sa.make_url(postgres(migrated))
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg"))
    with engine.begin() as opened:
        opened.execute(sa.text("DROP ROLE IF EXISTS reader"))
        opened.execute(sa.text("CREATE ROLE reader LOGIN"))
        opened.execute(sa.text("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"))
        opened.execute(sa.text("GRANT INSERT, UPDATE, DELETE ON sandbox, environment, part TO reader"))
    engine.dispose()
    return url.set(username="reader").render_as_string(hide_password=False)


@pytest.mark.slow
async def test_each_missing_right_in_postgresql_is_a_failure(tmp_path: Path, limited: str) -> None:
    found = await examine(tmp_path, database_url=limited, encryption_keys=text(OLD))
    said = {one.message for one in found["permissions", "database"]}
    assert "the user may not INSERT on watch_log" in said
    assert "the user may not UPDATE on request" in said
    assert not any(one.endswith(" on sandbox") or "SELECT" in one for one in said)
    assert {one.status for one in found["permissions", "database"]} == {Status.FAILURE}


async def test_read_only_postgresql_is_a_failure(tmp_path: Path, postgres: Callable[..., str], migrated: str) -> None:
    url = sa.make_url(postgres(migrated))
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg"))
    with engine.begin() as opened:
        opened.execute(sa.text(f"ALTER DATABASE {url.database} SET default_transaction_read_only = on"))
    engine.dispose()
    plain = url.render_as_string(hide_password=False)
    found = await examine(tmp_path, database_url=plain, encryption_keys=text(OLD))
    assert "read-only by default" in only(found, "permissions", "database").message


# --- the operator's files


async def check_tls(tmp_path: Path, chain: Path, key: Path) -> Result:
    return only(await examine(tmp_path, tls_cert=chain, tls_key=key), "tls", str(chain))


async def test_certificate(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "good", days=90)
    assert (await check_tls(tmp_path, chain, key)).status is Status.OK
    soon = await check_tls(tmp_path, *certificate(tmp_path, "soon", days=10))
    assert soon.status is Status.WARNING
    assert "for 9 more days" in soon.message
    expired = await check_tls(tmp_path, *certificate(tmp_path, "expired", days=-1))
    assert expired.status is Status.FAILURE
    assert "expired on " in expired.message
    other = await check_tls(tmp_path, chain, certificate(tmp_path, "other")[1])
    assert other.status is Status.FAILURE
    missing = await check_tls(tmp_path, tmp_path / "missing.crt", key)
    assert missing.status is Status.FAILURE
    assert "No such file" in missing.message


async def test_token_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    check = functools.partial(examine, tmp_path, token_file=path)
    tenant = {"name": "a", "namespaces": ["a-ns", "b-ns"], "tokens": [CANARY * 2]}
    path.write_text(json.dumps({"tenants": [tenant]}))
    good = only(await check(), "tokens", str(path))
    assert (good.status, good.message) == (Status.OK, "tenants: 1, operators: 0, tokens: 1, namespaces: 2")
    path.write_text(json.dumps({"tenants": [tenant | {"tokens": []}]}))
    assert only(await check(), "tokens", str(path)).status is Status.WARNING
    path.write_text(json.dumps({"tenants": [tenant | {"namespaces": ["A B"]}]}))
    bad = only(await check(), "tokens", str(path))
    assert (bad.status, CANARY in str(bad)) == (Status.FAILURE, False)
    path.unlink()
    assert only(await check(), "tokens", str(path)).status is Status.FAILURE


async def test_key_file_that_others_can_read_is_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "data" / "encryption.key"
    path.parent.mkdir()
    path.write_text(text(OLD))
    path.chmod(0o644)
    found = await examine(tmp_path)
    assert "can be read by others" in only(found, "keys").message
    assert only(found, "stored keys").status is Status.NOT_CHECKED


async def test_disk_that_is_almost_full_is_a_warning_and_a_full_one_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path / "data")
    assert only(await examine(tmp_path), "disk", folder).status is Status.OK
    monkeypatch.setattr(files, "SPACE_WARNING", 2**80)
    assert only(await examine(tmp_path), "disk", folder).status is Status.WARNING
    monkeypatch.setattr(files, "SPACE_FAILURE", 2**80)
    assert only(await examine(tmp_path), "disk", folder).status is Status.FAILURE


async def test_data_directory_that_is_a_file_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    found = await examine(tmp_path)
    assert only(found, "disk", str(tmp_path / "data")).message.endswith("is no directory")


async def test_data_directory_that_cannot_be_written_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    # These tests may run as root, who may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "data")
    result = only(await examine(tmp_path), "disk", str(tmp_path / "data"))
    assert result.status is Status.FAILURE
    assert f"cannot be written by user {os.geteuid()}" in result.message


# --- the local engine


async def test_port_that_a_program_listens_on_is_in_use() -> None:
    port = free_port()
    with closing(await asyncio.start_server(lambda *_: None, "127.0.0.1", port)):
        assert port in local.listening()


@pytest.mark.parametrize(
    ("used", "status", "message"),
    [
        (range(20005), Status.OK, "95 of 100 are free"),
        (range(20095), Status.WARNING, "5 of 100 are free"),
        (range(30000), Status.FAILURE, "0 of 100 are free"),
    ],
)
async def test_ports_that_are_free_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: range, status: Status, message: str
) -> None:
    monkeypatch.setattr(local, "listening", lambda: set(used))
    result = only(await examine(tmp_path, local_ports="20000-20099"), "ports", "20000-20099")
    assert (result.status, result.message) == (status, message)


@pytest.mark.skipif(not Path("/proc/sys/net/ipv4/ip_local_port_range").exists(), reason="the kernel does not say")
async def test_ports_that_the_kernel_gives_to_connections_are_a_warning(tmp_path: Path) -> None:
    low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    result = only(await examine(tmp_path, local_ports=f"{low}-{high}"), "ports", f"{low}-{high}")
    assert result.status is Status.WARNING
    assert f"the kernel gives {low}-{high} to outgoing connections" in result.message


async def test_missing_isolation_is_a_warning(tmp_path: Path) -> None:
    found = await examine(tmp_path, local_isolation="none")
    assert only(found, "isolation").status is Status.WARNING
