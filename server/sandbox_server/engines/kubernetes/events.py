"""What the events of a namespace say about StatefulSets, pods and claims."""

import re
from collections.abc import Sequence

from sandbox_server.engines.kubernetes import pods, resources
from sandbox_server.engines.kubernetes.cache import Cache
from sandbox_server.engines.kubernetes.objects import Object

SELECTORS = ("type=Warning,reason!=FailedScheduling", "reason=FailedBinding")
"""The events that are read. What the scheduler says stands in the pod as well. An unbound claim without a class is
reported with type Normal (controller/volume/persistentvolume/pv_controller.go)."""

UNHEALTHY = "Unhealthy"
"""The reason of a kubelet's event about a probe that failed (kubelet/events/event.go)."""

# The reasons of events that explain why a pod does not start. Where something that a start needs was tried and failed, the
# reason has "Failed" in it: FailedMount, FailedCreatePodSandBox, ProvisioningFailed. The others are from
# kubelet/events/event.go and controller/volume/events/event.go.
_STOPPING = re.compile(r"\w*Failed\w*|NetworkNotReady|ErrImageNeverPull|VolumeMismatch|ClaimLost|ClaimMisbound")
# These fail beside a start, or at the end of a pod.
_STOPPING_NOTHING = (
    "FailedToRetrieveImagePullSecret",
    "FailedPreStopHook",
    "FailedKillPod",
    "FailedPreemption",
    "FailedNodeAllocatableEnforcement",
    "ContainerGCFailed",
    "ImageGCFailed",
    "FreeDiskSpaceFailed",
    "VolumeResizeFailed",
    "FileSystemResizeFailed",
)


class Events:
    """The messages of events by the uid of the object that they are about.

    An event that came before the last pod of a StatefulSet does not explain why the next pod is missing. No clock decides
    which came first. Events are compared with events alone, because their versions may be those of a separate etcd.
    """

    def __init__(self, caches: Sequence[Cache[tuple[str, int]]]) -> None:
        """`caches` has one cache for each of `SELECTORS`."""
        self._caches = caches
        # Of each sandbox: the version of each cache when a pod was last there or asked for.
        self._passed: dict[str, tuple[int, ...]] = {}

    def message(self, uid: str) -> str:
        """Returns what an event says of the object with that uid; empty if there is none."""
        for cache in self._caches:
            found = cache.get(uid)
            if found is not None:
                return found[0]
        return ""

    def obstacle(self, sandbox_id: str, stateful_set_uid: str) -> str:
        """Returns what an event says keeps the controller from making the next pod; empty if there is none.

        Until a pod was seen by this process, every event counts that the cluster still keeps.
        """
        passed_versions = self._passed.get(sandbox_id, (0,) * len(self._caches))
        for cache, passed in zip(self._caches, passed_versions, strict=True):
            message, version = cache.get(stateful_set_uid) or ("", 0)
            went_backwards = passed > cache.version
            if message and (version > passed or went_backwards):
                return message
        return ""

    def pass_by(self, sandbox_id: str) -> None:
        """Declares that no event so far explains why the next pod is missing."""
        self._passed[sandbox_id] = tuple(cache.version for cache in self._caches)

    def forget(self, sandbox_id: str) -> None:
        """Drops what `pass_by` noted."""
        self._passed.pop(sandbox_id, None)


def identify(found: Object) -> tuple[str, str]:
    """Returns the name that an event is remembered by, and the id of the sandbox that it is about.

    An event has the uid of the object that it is about for a name. An event that does not stop a start has a name of its own
    beside that, so that it hides no cause.
    """
    involved = found.involvedObject
    if not involved.uid:
        return found.metadata.name, involved.name
    match involved.kind:
        case "PersistentVolumeClaim":
            return _cause_of(found), resources.sandbox_of_claim(involved.name)
        case "Pod":
            return _cause_of(found), involved.name.removesuffix("-0")
    return involved.uid, involved.name


def probe_of(uid: str) -> str:
    """Returns the name that the last failed probe of the pod with that uid is remembered by."""
    return f"{uid} {UNHEALTHY}"


def read(found: Object) -> tuple[str, int]:
    """Returns the message of an event and the version of its last repetition.

    Of the events about a StatefulSet only those about a pod that cannot be made have a message. The times of an event are
    not read: they are of its author's clock, and each author has its own fields for them. A failed probe has version 0, so
    that a repetition with the same message is no change.
    """
    involved, message = found.involvedObject, found.message
    version = int(found.metadata.resourceVersion or 0)
    if involved.kind == "StatefulSet" and found.reason != "FailedCreate":
        return "", version
    if found.reason != UNHEALTHY:
        return message, version
    container = re.search(r"\{(.+)\}", involved.fieldPath)
    if container is not None and container[1] != pods.CONTAINER:
        message = f"container {container[1]}: {message}"
    return message, 0


def _cause_of(found: Object) -> str:
    """Returns the name that an event about a pod or a claim is remembered by."""
    uid = found.involvedObject.uid
    if found.reason == UNHEALTHY:
        return probe_of(uid)
    stops = _STOPPING.fullmatch(found.reason) is not None and found.reason not in _STOPPING_NOTHING
    return uid if stops or not found.reason else f"{uid} {found.reason}"
