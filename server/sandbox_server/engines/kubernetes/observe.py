"""The cluster's objects as the domain sees them. Only the fields that matter are decoded, into small values."""

from datetime import datetime

import msgspec

from sandbox_server.domain.sandbox import Exit, Fault, Key, Pod, Reason, Volume, Workload
from sandbox_server.engines.kubernetes import client, manifests


class _Waiting(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Terminated(msgspec.Struct):
    exitCode: int = 0
    reason: str = ""


class _State(msgspec.Struct):
    waiting: _Waiting | None = None
    running: dict[str, str] | None = None
    terminated: _Terminated | None = None


class _Container(msgspec.Struct):
    ready: bool = False
    restartCount: int = 0
    imageID: str = ""
    state: _State = msgspec.field(default_factory=_State)
    lastState: _State = msgspec.field(default_factory=_State)


class _Condition(msgspec.Struct):
    type: str
    status: str
    reason: str = ""
    message: str = ""


class _PodStatus(msgspec.Struct):
    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: list[_Condition] = []
    containerStatuses: list[_Container] = []


class PodObject(msgspec.Struct):
    """A pod."""

    metadata: client.Meta
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


class _WorkloadSpec(msgspec.Struct):
    replicas: int = 1


class WorkloadObject(msgspec.Struct):
    """A StatefulSet."""

    metadata: client.Meta
    spec: _WorkloadSpec = msgspec.field(default_factory=_WorkloadSpec)


class _Requests(msgspec.Struct):
    requests: dict[str, str] = {}


class _ClaimSpec(msgspec.Struct):
    resources: _Requests = msgspec.field(default_factory=_Requests)


class _ClaimStatus(msgspec.Struct):
    phase: str = ""
    capacity: dict[str, str] = {}


class ClaimObject(msgspec.Struct):
    """A claim."""

    metadata: client.Meta
    spec: _ClaimSpec = msgspec.field(default_factory=_ClaimSpec)
    status: _ClaimStatus = msgspec.field(default_factory=_ClaimStatus)


class _Involved(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    uid: str = ""


class EventObject(msgspec.Struct):
    """A Kubernetes event: why a controller could not do something."""

    metadata: client.Meta
    involvedObject: _Involved = msgspec.field(default_factory=_Involved)
    message: str = ""
    lastTimestamp: datetime | None = None
    eventTime: datetime | None = None


class Trouble(msgspec.Struct, frozen=True):
    """What an event says of an object, and when it last said so."""

    uid: str
    message: str
    at: datetime


def key(meta: client.Meta, name: str) -> Key | None:
    """The sandbox that an object belongs to, by its label.

    `name` is what the object is called, with `{}` for the id: what somebody's scaling made beside it (pod 1, its claim)
    has the label too, and is not the sandbox's.
    """
    sandbox_id = meta.labels.get(manifests.ID, "")
    return Key(meta.namespace, sandbox_id) if meta.name == name.format(sandbox_id) else None


def workload(found: WorkloadObject) -> tuple[str, Workload]:
    """A StatefulSet's own uid, and what the domain sees."""
    meta = found.metadata
    return meta.uid, Workload(
        owner=meta.annotations.get(manifests.UID, ""),
        generation=_number(meta.annotations.get(manifests.GENERATION, "")),
        replicas=found.spec.replicas,
        revision=meta.generation,
        terminating=meta.deletionTimestamp is not None,
    )


def volume(found: ClaimObject) -> Volume:
    """A claim as the domain sees it."""
    meta = found.metadata
    return Volume(
        owner=meta.annotations.get(manifests.UID, ""),
        uid=meta.uid,
        name=meta.name,
        size=found.status.capacity.get("storage") or found.spec.resources.requests.get("storage", ""),
        bound=found.status.phase == "Bound",
        terminating=meta.deletionTimestamp is not None,
    )


def trouble(found: EventObject) -> tuple[Key, Trouble] | None:
    """The name of the object in trouble, and what it is."""
    at = found.lastTimestamp or found.eventTime
    if at is None:
        return None
    involved = found.involvedObject
    return Key(involved.namespace, involved.name), Trouble(involved.uid, found.message, at)


def pod(found: PodObject) -> Pod:
    """A pod as the domain sees it."""
    meta, status = found.metadata, found.status
    container = status.containerStatuses[0] if status.containerStatuses else _Container()
    conditions = {one.type: one for one in status.conditions}
    ready = conditions.get("Ready")
    scheduled = conditions.get("PodScheduled")
    last = container.lastState.terminated or container.state.terminated
    reason, message = _reason(status, container, conditions)
    return Pod(
        owner=meta.annotations.get(manifests.UID, ""),
        generation=_number(meta.annotations.get(manifests.GENERATION, "")),
        ready=bool(ready and ready.status == "True"),
        reason=reason,
        message=message,
        terminating=meta.deletionTimestamp is not None,
        scheduled=scheduled.status == "True" if scheduled else None,
        image_pulled=_pulled(container, reason),
        restart_count=container.restartCount,
        last_exit=Exit(last.exitCode, last.reason or "Error") if last else None,
    )


_WAITING = {
    "ErrImagePull": Reason.IMAGE_PULL,
    "ImagePullBackOff": Reason.IMAGE_PULL,
    "ImageInspectError": Reason.IMAGE_PULL,
    "ErrImageNeverPull": Reason.IMAGE_PULL,
    "RegistryUnavailable": Reason.IMAGE_PULL,
    "InvalidImageName": Reason.IMAGE_INVALID,
    "CreateContainerConfigError": Reason.CONTAINER_CONFIG,
    "CreateContainerError": Reason.CONTAINER_CONFIG,
    "RunContainerError": Reason.CONTAINER_CONFIG,
}


def _reason(status: _PodStatus, container: _Container, conditions: dict[str, _Condition]) -> tuple[Reason, str]:
    """Why the pod is not ready, in the domain's word and the cluster's words."""
    ready, scheduled = conditions.get("Ready"), conditions.get("PodScheduled")
    if ready and ready.status == "True":
        return Reason.READY, "the pod is ready"
    if ready and container.ready and container.state.running is not None:
        # The kubelet withdraws Ready together with the container's own; only the node controller does it alone.
        return Reason.NODE_LOST, "the pod's node does not answer"
    if scheduled and scheduled.status == "False":
        return _unscheduled(scheduled)
    if scheduled is None:
        return Reason.SCHEDULING, "waiting for a node"
    waiting, ended = container.state.waiting, container.state.terminated
    if waiting and waiting.reason == "CrashLoopBackOff":
        return _crashed(container)
    if waiting and waiting.reason in _WAITING:
        return _WAITING[waiting.reason], waiting.message or waiting.reason
    if ended:
        return (Reason.OUT_OF_MEMORY if ended.reason == "OOMKilled" else Reason.RESTARTING), _exit(ended)
    if status.phase == "Failed":
        return Reason.RESTARTING, f"{status.reason}: {status.message}".strip(": ")
    if container.state.running is not None:
        return Reason.NOT_READY, "the container runs; it is not ready yet"
    return Reason.CONTAINER_CREATING, "the container is being made"


def _unscheduled(scheduled: _Condition) -> tuple[Reason, str]:
    if "unbound immediate PersistentVolumeClaims" in scheduled.message or scheduled.reason == "SchedulingGated":
        return Reason.SCHEDULING, scheduled.message
    if "persistentvolumeclaim" in scheduled.message.lower():
        return Reason.VOLUME_PENDING, scheduled.message
    return Reason.UNSCHEDULABLE, scheduled.message


def _crashed(container: _Container) -> tuple[Reason, str]:
    last = container.lastState.terminated
    if last is None:
        return Reason.CRASH_LOOP, "the container ends again and again"
    return (Reason.OUT_OF_MEMORY if last.reason == "OOMKilled" else Reason.CRASH_LOOP), _exit(last)


def _exit(ended: _Terminated) -> str:
    return f"the container ended with exit code {ended.exitCode} ({ended.reason or 'Error'}); it is being started again"


def _pulled(container: _Container, reason: Reason) -> bool | None:
    if container.imageID or container.state.running is not None:
        return True
    return False if reason in (Reason.IMAGE_PULL, Reason.IMAGE_INVALID) else None


def event_fault(found: Trouble) -> Fault:
    """Why a StatefulSet's pod cannot be made."""
    return Fault(client.reason(403 if "is forbidden" in found.message else 400, found.message), found.message)


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0
