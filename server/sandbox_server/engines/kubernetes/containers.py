"""Why a pod is not ready, from the states of its containers: the sandbox's own and those that were injected."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sandbox_server.domain.phase import Reason
from sandbox_server.engines.kubernetes import home, pods
from sandbox_server.engines.kubernetes.objects import Container, Object, State, Status

_WAITING = {
    # kubelet/container/sync_result.go
    "CrashLoopBackOff": Reason.CRASH_LOOP,
    # kubelet/images/types.go and cri-api/pkg/errors
    "ErrImagePull": Reason.IMAGE_PULL,
    "ImagePullBackOff": Reason.IMAGE_PULL,
    "ImageInspectError": Reason.IMAGE_PULL,
    "ErrImageNeverPull": Reason.IMAGE_PULL,
    "RegistryUnavailable": Reason.IMAGE_PULL,
    "SignatureValidationFailed": Reason.IMAGE_PULL,
    "InvalidImageName": Reason.IMAGE_INVALID,
}

# Failures that a kubelet may get over by itself with its back-off: of its caches, the API server behind them, the socket of
# the runtime, and registries that do not answer or ask to be called later. An image's name has no space, so no name matches.
_PASSING_WORDS = (
    # kubelet/util/manager/watch_based_manager.go, and its callers in kubelet_pods.go
    r"failed to sync \w+ cache|object \S+/\S+ not registered|services have not yet been read",
    # plugin/pkg/auth/authorizer/node/node_authorizer.go, before it has heard of the pod
    r"no relationship found between node",
    # containerd's pkg/registrar/registrar.go, while an earlier try goes on
    r"failed to reserve \w+ name",
    # kubelet/images/puller.go
    r"pull QPS exceeded",
    # a registry's error code, and HTTP answers as runtimes quote them
    r"toomanyrequests: |\b(?:429|50[0234]) [A-Z]|\bstatus(?: code)?:? (?:429|50[0234])\b",
    # Go's net, net/http and context
    r"i/o timeout|handshake timeout|Client\.Timeout|timed out|context deadline exceeded|context canceled",
    r"connection (?:refused|reset)|broken pipe|unexpected EOF|: EOF$|transport is closing",
    r"server misbehaving|failure in name resolution|network is unreachable|no route to host",
    # gRPC's codes, of the runtime
    r"code = (?:Unavailable|DeadlineExceeded|ResourceExhausted|Aborted)",
)
_PASSING = re.compile("|".join(_PASSING_WORDS))

# The process was never started, whatever exit code the status has. StartError is containerd's
# (internal/cri/server/container_start.go), ContainerCannotRun that of Docker behind its shim.
_NOT_STARTED = ("StartError", "ContainerCannotRun")

OUT_OF_MEMORY = "OOMKilled"
"""The reason of a container whose process was killed for its memory, as runtimes give it."""
MAKING = "the container is being made"
_UNREADY = "runs; it is not ready yet"
_PENDING = (Reason.CONTAINER_CREATING, Reason.NOT_READY)
"""The reasons of a container that may wait for another one."""


class Cause(NamedTuple):
    """Why a container or its pod is not ready; see `observed.Pod`. The message is empty while a container is being made."""

    reason: Reason
    message: str
    quoted: str = ""
    passing: bool = False
    awaits_probe: bool = False


def own(pod: Object) -> Container:
    """Returns the status of the sandbox's container."""
    name = named(pod)
    return next((one for one in pod.status.containerStatuses if one.name == name), Container())


def named(pod: Object) -> str:
    """Returns the name of the sandbox's container: a former system may have named it."""
    return pod.metadata.annotations.get(pods.NAMED, pods.CONTAINER)


def incarnation(uid: str, container: Container) -> str:
    """Names the start of the process that runs, of the pod with that uid; empty while none does."""
    return f"{uid}.{container.restartCount}" if "running" in container.state else ""


def last_exit_of(uid: str, container: Container) -> str:
    """Names the start that ended last. A container that was restarted N times had N + 1 starts, the first with number 0."""
    return f"{uid}.{container.restartCount - 1 if 'running' in container.state else container.restartCount}"


def restarts(status: Status) -> int:
    """Returns how often containers of the pod were started again, all added up."""
    return sum(one.restartCount for one in (*status.initContainerStatuses, *status.containerStatuses))


def cause(status: Status, container: Container, ready: State) -> Cause:
    """Returns why the pod is not ready: an error of the sandbox's container, an error of another one, or what is pending."""
    found = _cause(container)
    if found.reason not in _PENDING:
        return found
    before = [*_others("init container", status.initContainerStatuses, found.reason)]
    others = [one for one in status.containerStatuses if one != container]
    beside = [*_others("container", others, found.reason)]
    failing = next((one for one in (*before, *beside) if one.reason not in _PENDING), None)
    if failing is not None:
        return failing
    # The sandbox's container is created after the init containers. Once it is ready, the pod waits for any other container.
    waits_for = before if found.reason is Reason.CONTAINER_CREATING else [*before, *beside] if container.ready else []
    if waits_for:
        return waits_for[0]
    if ready.reason == "ReadinessGatesNotReady":
        return Cause(Reason.NOT_READY, _gates(status, ready))
    return found


def _cause(container: Container) -> Cause:
    """Returns why any container is not ready."""
    if waiting := container.state.get("waiting"):
        return _waiting(waiting, container.lastState.get("terminated"))
    if ended := container.state.get("terminated"):
        return _ended(ended, Reason.RESTARTING)
    if "running" in container.state:
        return Cause(Reason.NOT_READY, f"the container {_UNREADY}", awaits_probe=True)
    return Cause(Reason.CONTAINER_CREATING, "")


def _waiting(waiting: State, last: State | None) -> Cause:
    reason = _WAITING.get(waiting.reason)
    if reason is Reason.CRASH_LOOP and last is not None:
        return _ended(last, reason)
    # Reasons that are not in the table are from kubelet/kuberuntime/kuberuntime_container.go: CreateContainerConfigError,
    # CreateContainerError, PostStartHookError and so on. Two reasons, which do not end in Error, are of a start without fault.
    if reason is None and not waiting.reason.endswith("Error"):
        if last is not None and last.reason in _NOT_STARTED:
            return _ended(last, Reason.CONTAINER_CONFIG)
        return Cause(Reason.CONTAINER_CREATING, "")
    if reason is None and _passing(waiting):
        return Cause(Reason.CONTAINER_CREATING, waiting.message, waiting.message)
    passing = reason is Reason.IMAGE_PULL and _passing(waiting)
    return Cause(reason or Reason.CONTAINER_CONFIG, waiting.message or waiting.reason, waiting.message, passing)


def _passing(waiting: State) -> bool:
    return waiting.reason == "ErrImagePull" or _PASSING.search(waiting.message) is not None


def _ended(ended: State, otherwise: Reason) -> Cause:
    """Returns why a container ended: `otherwise`, unless it was out of memory or its process could not be started."""
    if ended.reason in _NOT_STARTED:
        return Cause(Reason.CONTAINER_CONFIG, ended.message or ended.reason, ended.message)
    message = (
        f"the container ended with exit code {ended.exitCode} ({ended.reason or 'Error'}); it is being started again"
    )
    return Cause(Reason.OUT_OF_MEMORY if ended.reason == OUT_OF_MEMORY else otherwise, message)


def _others(kind: str, containers: Iterable[Container], pending: Reason) -> Iterator[Cause]:
    """Yields why each other container is not ready. `pending` is the reason for one that runs.

    A container that waits for those before it, or has ended without an error, is no cause.
    """
    for one in containers:
        if one.ready:
            continue
        ended = one.state.get("terminated")
        if "running" in one.state:
            yield Cause(pending, f"the {kind} {one.name} {_UNREADY}", awaits_probe=True)
        elif ended.exitCode != 0 if ended else _fails(_cause(one)):
            yield _failing(kind, one)


def _fails(found: Cause) -> bool:
    """Whether the cause is an error, even one that may pass."""
    return found.reason not in _PENDING or found.quoted != ""


def _failing(kind: str, container: Container) -> Cause:
    """Returns the error of another container, with its name, its state and its message."""
    waiting = container.state.get("waiting", State())
    ended = container.state.get("terminated") or container.lastState.get("terminated")
    states = [waiting.reason] if waiting.reason else []
    if ended is not None:
        states.append(f"ended with exit code {ended.exitCode} ({ended.reason or 'Error'})")
    quoted = ": ".join(filter(None, (waiting.message, ended.message if ended else "")))
    reason, named = Reason.OTHER_CONTAINER, f"the {kind} {container.name}: {', '.join(states)}"
    if container.name == home.CONTAINER:
        reason, named = Reason.CONTAINER_CONFIG, f"{home.FAILS}; {named}"
    passing = bool(waiting.reason) and _passing(waiting)
    return Cause(reason, ": ".join(filter(None, (named, quoted))), quoted, passing)


def _gates(status: Status, ready: State) -> str:
    """Returns which readiness gates are not passed, with the messages of the kubelet and of their conditions."""
    closed = [one for one in status.conditions if f'"{one.type}"' in ready.message and one.status != "True"]
    return "; ".join(filter(None, (ready.message, *(one.message or one.reason for one in closed))))
