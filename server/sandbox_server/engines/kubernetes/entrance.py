"""Runs programs in the container of a sandbox, and in no other incarnation of it than the one that is asked for."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Sequence

from sandbox_server import engines
from sandbox_server.domain import ownership
from sandbox_server.domain.observed import Pod
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.kubernetes import client, containers, observe, pods, resources, rights, streams
from sandbox_server.engines.kubernetes.objects import Object
from sandbox_server.engines.kubernetes.resources import Kind, Reference

_SHELL = "/bin/sh"
_SIGN = b"\n"
_SIGNALS = (_SHELL, "-c", 'echo; exec "$@"', "sh")
"""What comes before a program: it shows that it has started before it reads anything. The API server accepts the connection
before it asks the kubelet."""

# The words of runc and of crun, as the kubelet hands them on; and the exit codes that a runtime gives in their place. cri-dockerd
# gives the words as output.
_NO_SHELL = re.compile(
    rf'"{_SHELL}": (stat {_SHELL}: )?(no such file|permission denied|exec format error)|executable file `{_SHELL}` not found'
)
_NOT_STARTED = (126, 127)
_WORDS_MOST = 4096


async def read_pod(api: client.Client, sandbox: Sandbox) -> Pod | None:
    """Returns the pod of a sandbox as the API server now has it. Raises `engines.NotGranted` and `engines.Unreachable`."""
    found = await find_pod(api, sandbox)
    return None if found is None else observe.pod(found)


async def find_pod(api: client.Client, sandbox: Sandbox) -> Object | None:
    """Returns the object of the pod. Raises as `read_pod`."""
    reference = Reference(Kind.POD, sandbox.namespace, resources.pod_name(sandbox))
    with rights.granted(sandbox.namespace, "get pods"):
        found = await api.find(reference, whole=True)
    return found if found is not None and ownership.owned(sandbox, observe.pod(found)) else None


def ended_by(pod: Pod | None, incarnation: str) -> Reason | None:
    """Returns what ended an incarnation, as far as the pod tells."""
    if pod is None:
        return None
    if pod.last_exit is not None and pod.last_exit_of == incarnation:
        return Reason.OUT_OF_MEMORY if pod.last_exit.reason == containers.OUT_OF_MEMORY else None
    of_this_pod = incarnation.startswith(f"{pod.uid}.")
    return Reason.NODE_LOST if of_this_pod and pod.reason is Reason.NODE_LOST else None


@contextlib.asynccontextmanager
async def enter(
    api: client.Client, sandbox: Sandbox, incarnation: str, program: Sequence[str], within: float
) -> AsyncIterator[streams.Stream]:
    """See `engines.Access.enter`. `within`: seconds for the program to start.

    A call names a pod, and not an incarnation: whichever runs is entered. So the pod is read once the program has started,
    and before anything is written to it.
    """
    reference = Reference(Kind.POD, sandbox.namespace, resources.pod_name(sandbox))
    async with started(api, reference, pods.container(sandbox), program, within) as stream:
        pod = await read_pod(api, sandbox)
        if pod is None or not incarnation or pod.incarnation != incarnation:
            raise engines.Unreachable("the process of the sandbox has ended")
        yield stream


@contextlib.asynccontextmanager
async def started(
    api: client.Client, pod: Reference, container: str, program: Sequence[str], within: float
) -> AsyncIterator[streams.Stream]:
    """Runs a program in a container of a pod, whichever incarnation runs. Yields once it has started.

    Raises `engines.NotGranted`, `engines.Unsupported` and `engines.Unreachable`.
    """
    async with contextlib.AsyncExitStack() as opened:
        with rights.granted(pod.namespace, "get and create pods/exec"):
            entered = streams.enter(api, pod.namespace, pod.name, container, (*_SIGNALS, *program))
            stream = await opened.enter_async_context(entered)
        await _started(stream, within)
        yield stream


async def _started(stream: streams.Stream, within: float) -> None:
    """Returns when the program has started. Raises `engines.Unsupported` and `engines.Unreachable`."""
    try:
        async with asyncio.timeout(within):
            said = await stream.read(len(_SIGN))
            if said == _SIGN:
                return
            while len(said) < _WORDS_MOST and (more := await stream.read(_WORDS_MOST)):
                said += more
    except TimeoutError:
        raise engines.Unreachable(f"exec: no program starts within {within:g} s") from None
    end = stream.end
    words = said.decode(errors="replace") + end.message
    if end.exit_code in _NOT_STARTED or _NO_SHELL.search(words):
        raise engines.Unsupported(f"the sandbox has no POSIX shell at {_SHELL}: use another image")
    raise engines.Unreachable(f"exec: {words[:_WORDS_MOST] or 'the connection was cut'}")
