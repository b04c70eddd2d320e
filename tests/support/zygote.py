"""A process that has imported a program and forks a process of it for each request.

It is run as `python -m tests.support.zygote DESCRIPTOR SCRIPT MODULE...`: it imports the modules, and each process runs the
script. `tests/support/programs.py` sends the requests.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from pathlib import Path

LARGEST = 1 << 20
"""Bytes of a request."""


class Zygote:
    """Serves requests: a JSON object with the words, the directory and the environment of the process, and four descriptors.

    These are the standard streams and a socket, to which the process id is written and, at its end, the wait status.
    """

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.selector = selectors.DefaultSelector()
        self.selector.register(control, selectors.EVENT_READ)
        self.running: dict[int, tuple[int, socket.socket]] = {}
        """For each process its id and its socket, by a descriptor that is readable when it has ended."""

    def serve(self) -> list[str] | None:
        """Returns the words of the process in each process, and None in this one when nobody can send requests any more."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is not self.control:
                    self._reap(key.fd)
                    continue
                request, descriptors, _, _ = socket.recv_fds(self.control, LARGEST, 4)
                if not request:
                    return None
                if self._fork(descriptors) == 0:
                    return _become(json.loads(request), descriptors)

    def _fork(self, descriptors: list[int]) -> int:
        pid = os.fork()
        if pid == 0:
            self._close()
            return pid
        *streams, told = descriptors
        for stream in streams:
            os.close(stream)
        teller = socket.socket(fileno=told)
        teller.send(str(pid).encode())
        ended = os.pidfd_open(pid)
        self.running[ended] = (pid, teller)
        self.selector.register(ended, selectors.EVENT_READ)
        return pid

    def _reap(self, ended: int) -> None:
        pid, teller = self.running.pop(ended)
        self.selector.unregister(ended)
        os.close(ended)
        _, status = os.waitpid(pid, 0)
        with teller, contextlib.suppress(OSError):
            teller.send(str(status).encode())

    def _close(self) -> None:
        """Closes in a new process what is the business of this one."""
        self.selector.close()
        self.control.close()
        for ended, (_, teller) in self.running.items():
            os.close(ended)
            teller.close()


def _become(request: dict[str, object], descriptors: list[int]) -> list[str]:
    """Gives a new process what it would have if its program had been executed. Returns its words."""
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", buffering=1 if os.isatty(1) else -1, closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    return list(request["words"])  # type: ignore[call-overload]


def main() -> None:
    """Serves until nobody can send requests any more; each process runs the script and ends as Python ends."""
    descriptor, script, *modules = sys.argv[1:]
    for module in modules:
        importlib.import_module(module)
    # The processes do not have the other threads of this one.
    assert len([*Path("/proc/self/task").iterdir()]) == 1
    # What is imported stays: without this, each process would copy and examine all of it at its end.
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    words = Zygote(socket.socket(fileno=int(descriptor))).serve()
    if words is not None:
        sys.argv = [script, *words]
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
