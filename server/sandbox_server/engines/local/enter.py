"""Runs programs in the namespaces of processes, as a script of its own: `enter.py DESCRIPTOR`.

The descriptor is a socket. Each message on it is a list in JSON, of PID, FOLDER and the words of a program, with two
descriptors, the program's input and output. The answer is a message with a descriptor of the process that runs it: when that
is killed, the program is. The script ends when its socket does.

PID is the first process inside bubblewrap. The program gets the environment of the sandbox's command and begins in FOLDER,
without capabilities and without a way to gain any.

For a user other than root, bubblewrap makes two nested user namespaces. The outer one owns the other namespaces and is
entered first, the inner one is that of the processes and is entered last. For root it makes none.

A script of its own, since a process with several threads cannot enter a user namespace, and one that goes on, since Python
takes longer to start than everything else does. Python 3.11 has no `os.setns`.
"""

import ctypes
import fcntl
import json
import os
import signal
import socket
import sys

_NS_GET_PARENT = 0xB702
_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63
_GONE = 125
"""The exit code where the sandbox's process is gone."""

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def _namespace(pid: int, name: str) -> int:
    return os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)


def _same(one: int, other: int) -> bool:
    return os.path.samestat(os.fstat(one), os.fstat(other))


def _users(pid: int) -> list[int]:
    """Returns descriptors of the user namespaces between that of this process, which is left out, and that of `pid`."""
    own = _namespace(os.getpid(), "user")
    found: list[int] = []
    namespace = _namespace(pid, "user")
    while not _same(namespace, own):
        found.insert(0, namespace)
        namespace = fcntl.ioctl(namespace, _NS_GET_PARENT)
    return found


def _enter(pid: int, command: int) -> None:
    """Enters the namespaces of the sandbox, whose first process is `pid`."""
    users = _users(command)
    others = [_namespace(pid, name) for name in ("ipc", "uts", "pid", "mnt")]
    for namespace in (*users[:1], *others, *users[1:]):
        _call("setns", namespace, 0)
        os.close(namespace)


def _drop_capabilities() -> None:
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(_LAST_CAPABILITY + 1):
        # Fails for those that this kernel does not have.
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _call("capset", header, (ctypes.c_uint32 * 6)())
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _run(pid: int, folder: str, program: list[str]) -> int:
    """Runs a program and returns its exit code."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as children:  # noqa: PTH123 - pathlib is slow to import
            command = int(children.read().split()[0])
        with open(f"/proc/{command}/environ", "rb") as environ:  # noqa: PTH123
            pairs = [pair.partition(b"=") for pair in environ.read().split(b"\0") if pair]
        _enter(pid, command)
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return _GONE
    child = os.fork()
    if child == 0:
        # The program has no other use than the conversation with this process. What it has started goes on.
        _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # The interpreter ignores these, which a program would inherit.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(folder)
        _drop_capabilities()
        os.execve(program[0], program, {name: value for name, _, value in pairs})  # noqa: S606
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(near: socket.socket) -> None:
    """Forks for each message."""
    # Nobody waits for those that have ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(near, 65536, 2)
        if not message:
            return
        child = os.fork()
        if child == 0:
            near.close()
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
                os.close(descriptor)
            # A group of its own, for signals, and the session of this script: Linux shares the processors out among sessions
            # (autogroup), and many programs that each had one would leave next to nothing to the service.
            os.setpgid(0, 0)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            pid, folder, *program = json.loads(message)
            os._exit(_run(pid, folder, program))
        for descriptor in descriptors:
            os.close(descriptor)
        try:
            process = os.pidfd_open(child)
        except ProcessLookupError:
            near.send(b"ended")
            continue
        socket.send_fds(near, [b"runs"], [process])
        os.close(process)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
