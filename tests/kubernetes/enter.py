"""Enters the namespaces of a container: `enter.py PID exec|terminal FOLDER PROGRAM...`, or `enter.py PID connect PORT`.

PID is the first process of the container. A program runs without capabilities, in FOLDER, and ends with the exit code of
the script. A connection is passed over the standard output. Descriptor 3 gets the reason where neither is possible, in the
words of runc and of Go. What can be entered is what the local engine enters, and the network besides.

A script of its own, since a process with several threads, as is any of Go, cannot enter a user namespace.
"""

import fcntl
import importlib.util
import os
import signal
import socket
import sys
import termios
from pathlib import Path
from typing import Any

REASON = 3
NAMESPACES = ("ipc", "uts", "net", "pid", "mnt")
_SCRIPT = Path(__file__).parents[2] / "server/sandbox_server/engines/local/enter.py"


def _local() -> Any:
    """The module of the local engine, without the package around it, which is slow to import."""
    found = importlib.util.spec_from_file_location("enter", _SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _refuse(reason: str) -> None:
    os.write(REASON, reason.encode())
    os._exit(126)


def _program(name: str) -> str:
    """The path of a program in the container. Refuses as runc does."""
    if "/" in name:
        if not Path(name).exists():
            _refuse(f'exec: "{name}": stat {name}: no such file or directory')
        return name
    for folder in os.environ.get("PATH", os.defpath).split(":"):
        path = f"{folder}/{name}"
        if os.access(path, os.X_OK) and not Path(path).is_dir():
            return path
    _refuse(f'exec: "{name}": executable file not found in $PATH')
    raise AssertionError


def _run(local: Any, mode: str, folder: str, words: list[str]) -> int:
    child = os.fork()
    if child == 0:
        os.setsid()
        if mode == "terminal":
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(folder)
        local._drop_capabilities()
        path = _program(words[0])
        os.set_inheritable(REASON, False)
        try:
            os.execv(path, words)
        except OSError as error:
            _refuse(f'exec: "{words[0]}": {(error.strerror or str(error)).lower()}')
    os.close(REASON)
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _connect(port: int) -> int:
    reasons = []
    for family, host, word in ((socket.AF_INET, "127.0.0.1", "tcp4"), (socket.AF_INET6, "::1", "tcp6")):
        with socket.socket(family) as made, socket.socket(fileno=os.dup(1)) as passed:
            try:
                made.connect((host, port))
            except OSError as error:
                place = f"[{host}]" if ":" in host else host
                reasons.append(f"dial {word} {place}:{port}: connect: {(error.strerror or str(error)).lower()}")
            else:
                socket.send_fds(passed, [b"."], [made.fileno()])
                return 0
    _refuse(f"IPv4: {reasons[0]} IPv6: {reasons[1]}")
    return 126


def main(pid: int, mode: str, *words: str) -> int:
    local = _local()
    users = local._users(pid)
    others = [local._namespace(pid, name) for name in NAMESPACES]
    for namespace in (*users[:1], *others, *users[1:]):
        local._call("setns", namespace, 0)
        os.close(namespace)
    return _connect(int(words[0])) if mode == "connect" else _run(local, mode, words[0], list(words[1:]))


if __name__ == "__main__":
    try:
        sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
    except OSError as error:
        _refuse(f"the container cannot be entered: {error}")
