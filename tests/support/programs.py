"""`sandbox-server` and `sandboxctl` as processes, without the second that importing them takes.

Each process is forked from one that has imported the program, `tests/support/zygote.py`. From then on it is as if the program
had been executed: the process has an id, streams, signals, an environment and an exit status of its own. A test of what Python
does before and after the program (a missing package, a closed stream, an encoding, an output that fails) executes it.
"""

import contextlib
import functools
import json
import os
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.support.waiting import PATIENCE

BIN = Path(sys.executable).parent
MODULES = {
    "sandbox-server": ("sandbox_server.__main__", "sandbox_server.app", "uvloop"),
    # The command's own modules look at the terminal when they are imported. Typer imports pydantic when a command runs.
    "sandboxctl": (
        "sandbox_client",
        "grpc.experimental",
        "typer.main",
        "pydantic.fields",
        "pydantic.type_adapter",
        "pydantic.types",
        "rich.console",
        "rich.json",
        "rich.markdown",
        "rich.panel",
        "rich.table",
        "rich.text",
        "rich.traceback",
        "google.protobuf.json_format",
        "importlib.metadata",
        "yaml",
    ),
}
"""What each program imports, whatever its environment is."""


_zygotes: list[tuple[socket.socket, subprocess.Popen[bytes]]] = []


@functools.cache
def _zygote(name: str) -> socket.socket:
    """Returns the socket for requests to run this program."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    words = [sys.executable, "-m", "tests.support.zygote", str(theirs.fileno()), str(BIN / name), *MODULES[name]]
    with theirs:
        process = subprocess.Popen(
            words,
            pass_fds=[theirs.fileno()],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    _zygotes.append((ours, process))
    return ours


def end() -> None:
    """Ends what the processes are forked from."""
    for control, process in _zygotes:
        control.close()
        process.wait()


class Program(subprocess.Popen[Any]):
    """A process of one of the programs, which `Popen` would take longer to start. Of its options it has those for streams,
    `cwd` and `env`."""

    def __init__(self, name: str, *words: str, **options: Any) -> None:
        self._lock = threading.Lock()
        super().__init__([name, *words], **options)

    def _execute_child(self, args: Any, *rest: Any) -> None:
        cwd, env = rest[4:6]
        pipes = rest[9:15]
        stdin, _, _, stdout, _, stderr = pipes
        streams = [given if given != -1 else number for number, given in enumerate((stdin, stdout, stderr))]
        name, *words = args
        request = {"words": words, "cwd": str(cwd or Path.cwd()), "env": dict(os.environ if env is None else env)}
        self._told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(_zygote(name), [json.dumps(request).encode()], [*streams, theirs.fileno()])
        self.pid = int(self._told.recv(20))
        self._close_pipe_fds(*pipes)

    def poll(self) -> int | None:
        """Returns the exit code, or None if the process has not ended. It is no child, so that its parent tells the status."""
        with self._lock:
            if self.returncode is None and self._is_told(0):
                self.returncode = os.waitstatus_to_exitcode(int(self._told.recv(20)))
                self._told.close()
            return self.returncode

    def _is_told(self, timeout: float | None) -> bool:
        """Returns whether the status can be read within that time. Unlike `select`, for a descriptor of any number."""
        poll = select.poll()
        poll.register(self._told, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code when the process has ended."""
        if self.returncode is None:
            self._is_told(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code


def run(name: str, *words: str, timeout: float = 60 * PATIENCE, **options: Any) -> "subprocess.CompletedProcess[Any]":
    """Runs a program to its end, as `subprocess.run` would with `capture_output`."""
    given = options.pop("input", None)
    pipe = subprocess.PIPE
    options = {"stdin": pipe if given is not None else None, "stdout": pipe, "stderr": pipe, "text": True, **options}
    with Program(name, *words, **options) as process:
        try:
            out, said = process.communicate(given, timeout=timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    return subprocess.CompletedProcess(words, process.returncode, out, said)
