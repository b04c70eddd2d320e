"""The calls about execs: the request of each, for both clients."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox.v1 import access_pb2 as pb

from sandbox_client import calls


@dataclass(frozen=True, slots=True)
class Place:
    """The names of an exec, which every request about it has."""

    sandbox_id: str
    namespace: str
    exec_id: str
    incarnation: str

    def fields(self) -> dict[str, Any]:
        """Returns the names as fields of a request."""
        return {
            "sandbox_id": self.sandbox_id,
            "namespace": self.namespace,
            "exec_id": self.exec_id,
            "incarnation": self.incarnation,
        }


def start(
    sandbox: calls.Named,
    command: Iterable[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str = "",
    stdin: bool = False,
    tty: tuple[int, int] | None = None,
    time_limit: int = 0,
    exec_id: str = "",
    expected_incarnation: str = "",
    namespace: str = "",
    request_id: str = "",
    timeout: float | None = None,
) -> calls.Call[pb.Exec]:
    """Starts a command. Raises TypeError for a command that is one string: each character would be a word."""
    if isinstance(command, str):
        raise TypeError("command must be a list of words, not one string")
    sandbox_id, namespace = calls.target(sandbox, namespace)
    request = pb.StartExecRequest(
        sandbox_id=sandbox_id,
        namespace=namespace,
        request_id=request_id or str(uuid.uuid4()),
        exec_id=exec_id,
        command=command,
        env=env or {},
        cwd=cwd,
        stdin=stdin,
        timeout_seconds=time_limit,
        expected_incarnation=expected_incarnation,
        tty=None if tty is None else pb.Terminal(rows=tty[0], cols=tty[1]),
    )
    return calls.Call("StartExec", request, "exec", timeout)


def execs(sandbox: calls.Named, *, namespace: str = "", timeout: float | None = None) -> calls.Call[Sequence[pb.Exec]]:
    """Returns the execs of the current incarnation: those that run, and those that have ended and are remembered.

    >>> made = client.create("demo", command=["sleep", "1000"])
    >>> running = client.wait_until(made, "RUNNING")
    >>> done = client.run(made, ["true"])
    >>> [one.exec_id == done.exec_id for one in client.execs(made)]
    [True]
    """
    sandbox_id, namespace = calls.target(sandbox, namespace)
    return calls.Call("ListExecs", pb.ListExecsRequest(sandbox_id=sandbox_id, namespace=namespace), "execs", timeout)


def get(place: Place, timeout: float | None) -> calls.Call[pb.Exec]:
    """Returns an exec as it stands."""
    return calls.Call("GetExec", pb.GetExecRequest(**place.fields()), "exec", timeout)


def signal(place: Place, name: str, timeout: float | None) -> calls.Call[pb.SignalExecResponse]:
    """Sends a signal."""
    return calls.Call("SignalExec", pb.SignalExecRequest(**place.fields(), signal=name), "", timeout)


def resize(place: Place, rows: int, cols: int, timeout: float | None) -> calls.Call[pb.ResizeExecResponse]:
    """Sets the size of a terminal."""
    request = pb.ResizeExecRequest(**place.fields(), terminal=pb.Terminal(rows=rows, cols=cols))
    return calls.Call("ResizeExec", request, "", timeout)


def wait(place: Place, timeout: float | None) -> calls.Call[pb.Exec]:
    """Waits for the end, in one call. The service waits for no longer than the call has time."""
    return calls.Call("WaitExec", pb.WaitExecRequest(**place.fields()), "exec", timeout)
