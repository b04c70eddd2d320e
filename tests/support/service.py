"""The service in a process of its own."""

import contextlib
import json
import os
import signal
from pathlib import Path

from sandbox_client import Client, ServiceError

from tests.support.ports import LOCAL_PORTS, free_port
from tests.support.programs import Program
from tests.support.waiting import PATIENCE

QUICK = {"SANDBOX_READY_FOR": "0", "SANDBOX_LOCAL_PORTS": LOCAL_PORTS, "SANDBOX_ACCESS_LISTEN": ""}
"""Most sandboxes of the tests have no probe; how long they must run to be ready is tested by itself."""


def without_coverage() -> dict[str, str]:
    """Returns the environment for a process of another user. Without coverage, whose files that user may not write."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


class Service:
    """The service as a process. `start` may be called again after `kill`: same data, same port."""

    def __init__(self, folder: Path, *flags: str, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.flags = flags
        self.env = env or {}
        self.log = folder / "service.log"
        self.process: Program | None = None

    def start(self, *, wait: bool = True) -> "Service":
        self.folder.mkdir(parents=True, exist_ok=True)
        words = ["--listen", self.address, "--data-dir", str(self.folder / "data"), *self.flags]
        env = {**os.environ, **QUICK, **self.env}
        with self.log.open("ab") as log:
            self.process = Program("sandbox-server", *words, stdout=log, stderr=log, env=env)
        if wait:
            self.wait()
        return self

    def wait(self) -> None:
        with self.client(timeout=20 * PATIENCE) as client:
            try:
                client.page()
            except ServiceError as error:
                raise AssertionError(f"the service does not answer: {self.log.read_text()[-3000:]}") from error

    def answers(self) -> bool:
        """Whether a call is answered within two seconds."""
        with self.client(timeout=2, contact_timeout=2) as client:
            try:
                client.page()
            except ServiceError:
                return False
        return True

    def client(self, **options: object) -> Client:
        # The service may be starting.
        return Client(self.address, **{"contact_timeout": 20 * PATIENCE, **options})  # type: ignore[arg-type]

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=30 * PATIENCE)

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
