"""What every test may use: a PostgreSQL of the session, and the service in a process of its own."""

import contextlib
import gc
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

# As sandbox-server sets it, before anything imports gRPC: services of the tests start programs as well.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import hypothesis
import pytest
import sqlalchemy as sa
import structlog
from sandbox_client import Client
from sandbox_server import store
from sandbox_server.domain.pace import Pace

from tests.support import programs, sqlite
from tests.support.ports import free_port
from tests.support.rig import FAST
from tests.support.service import Service
from tests.support.variants import some
from tests.support.waiting import eventually

hypothesis.settings.register_profile(
    "patient", hypothesis.settings.default, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
"""A busy machine takes as long as it takes for an example."""
hypothesis.settings.load_profile("patient")
hypothesis.settings.register_profile("brief", max_examples=20)
"""Of `make test`. `make test-all` tries 100 examples of each property."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spares the garbage collector what is imported and collected, all of which stays: half a second in each worker."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[..., str]]:
    """Makes databases in a real PostgreSQL, empty ones or copies of another; gives their URLs."""
    from tests.support.postgres import Postgres

    server = Postgres()
    try:
        yield server.database
    finally:
        server.close()


@pytest.fixture(scope="session")
def migrated(postgres: Callable[[], str]) -> str:
    """The name of a database in PostgreSQL with the schema of this release, to be copied."""
    url = postgres()
    store.migrate(url)
    return str(sa.make_url(url).database)


@pytest.fixture
def pgbouncer(postgres: Callable[[], str]) -> Iterator[str]:
    """The URL of an empty database behind a real PgBouncer that lends two connections for a transaction each."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed: apt-get install pgbouncer")
    direct, port = sa.make_url(postgres()), free_port()
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer"))
    folder.chmod(0o755)
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n{direct.database} = host={direct.query['host']} user={direct.username}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 2\n"
    )
    # It does not run as root, and PostgreSQL's socket is its own user's.
    owner = (Path(str(direct.query["host"])) / ".s.PGSQL.5432").owner()
    words = [program, *(["-u", owner] if os.geteuid() == 0 else []), "-q", str(folder / "pgbouncer.ini")]
    with (folder / "log").open("wb") as log, subprocess.Popen(words, stdout=log, stderr=log) as process:
        try:
            eventually(lambda: _listens(port), within=30)
            yield f"postgresql://{direct.username}@127.0.0.1:{port}/{direct.database}"
        finally:
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind in which nothing is yet, no schema either."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store/sandbox.db"
    return str(request.getfixturevalue("postgres")())


@pytest.fixture(params=some(["sqlite", "postgresql"]))
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind with the schema and nothing else: `make test` has SQLite where BOTH_DATABASES is not said."""
    if request.param == "sqlite":
        file = tmp_path / "store" / "sandbox.db"
        file.parent.mkdir()
        file.write_bytes(sqlite.migrated())
        return f"sqlite:///{file}"
    return str(request.getfixturevalue("postgres")(request.getfixturevalue("migrated")))


def pytest_configure() -> None:
    """Lets SIGINT end what tests start, even where a shell began the run in the background: it has such a run ignore SIGINT, and
    every process inherits that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _plain_logs() -> None:
    """Logs tracebacks without the values of variables, as the service does: to print those takes up to half a second."""
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
        ]
    )


@pytest.fixture(scope="session", autouse=True)
def _programs() -> Iterator[None]:
    yield
    programs.end()


@pytest.fixture
def make_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def make(*flags: str, env: dict[str, str] | None = None) -> Service:
        service = Service(tmp_path / f"service{len(made)}", *flags, env=env)
        made.append(service)
        return service

    try:
        yield make
    finally:
        for service in made:
            service.end()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service on the local engine for the tests of a module."""
    made = Service(tmp_path_factory.mktemp("service"))
    try:
        yield made.start()
    finally:
        made.end()


@pytest.fixture
def pace() -> Pace:
    """The pace of a rig: a module whose subject are certain times has its own."""
    return FAST


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with service.client() as client:
        yield client
