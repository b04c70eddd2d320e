"""What the cluster says of changes that take a while: of the size of a disk, and of the resources of a pod."""

import time
from dataclasses import dataclass

from sandbox_server.domain import check
from sandbox_server.domain.observed import Fault, Growth
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.spec import Resources
from sandbox_server.engines.kubernetes.objects import Amounts, Object

FAILED = "VolumeResizeFailed"
"""The reason of an event about a claim that could not grow (kubelet/events/event.go, external-resizer/pkg/util/events.go)."""

# api/core/v1/types.go, ClaimResourceStatus.
_STAGES = {
    "ControllerResizeInProgress": Reason.VOLUME_EXPANDING,
    "ControllerResizeInfeasible": Reason.EXPANSION_INFEASIBLE,
    "NodeResizePending": Reason.VOLUME_EXPANDS_AT_START,
    "NodeResizeInProgress": Reason.VOLUME_EXPANDING,
    "NodeResizeInfeasible": Reason.EXPANSION_INFEASIBLE,
}
# api/core/v1/types.go, PersistentVolumeClaimConditionType: those of an error have its words.
_ERRORS = ("ControllerResizeError", "NodeResizeError")
_CONDITIONS = {"FileSystemResizePending": Reason.VOLUME_EXPANDS_AT_START, "Resizing": Reason.VOLUME_EXPANDING}
# kubernetes/plugin/pkg/admission/storage/persistentvolume/resize/admission.go
_NOT_EXPANDABLE = "only dynamically provisioned pvc can be resized"


def of(found: Object) -> Growth | None:
    """Returns where the growth of a claim stands; None while the claim does not say.

    What it says of another size than the claim asks for now is about a request that was taken back.
    """
    status = found.status
    conditions = {one.type: one.message for one in status.conditions if one.status == "True"}
    requested, tried = found.spec.resources.requests.get("storage", ""), status.allocatedResources.get("storage", "")
    if tried and check.amount(tried) != check.amount(requested):
        return None
    words = next((conditions[one] for one in (*_ERRORS, *_CONDITIONS) if conditions.get(one)), "")
    stage = _STAGES.get(status.allocatedResourceStatuses.get("storage", ""))
    if stage is None:
        stage = next((reason for one, reason in _CONDITIONS.items() if one in conditions), None)
    if stage is None and words:
        stage = Reason.VOLUME_EXPANDING
    return None if stage is None else Growth(stage, words)


def of_pod(found: Object) -> Growth | None:
    """Returns where the change of a pod's resources stands; None if the kubelet has made it, or has none to make.

    The conditions are those of api/core/v1/types.go, PodConditionType.
    """
    conditions = {one.type: one for one in found.status.conditions if one.status == "True"}
    pending = conditions.get("PodResizePending")
    if pending is not None:
        infeasible = pending.reason == "Infeasible"
        return Growth(Reason.RESIZE_INFEASIBLE if infeasible else Reason.RESIZE_DEFERRED, pending.message)
    if "PodResizeInProgress" in conditions:
        return Growth(Reason.RESIZING, conditions["PodResizeInProgress"].message)
    seen = found.status.observedGeneration
    if seen == 0:
        # Before 1.34 a kubelet does not say which generation of the pod it has seen. Before 1.33 it changes no resources, and
        # says none.
        changes = any(one.resources is not None for one in found.status.containerStatuses)
        return None if changes else Growth(Reason.RESIZING)
    return Growth(Reason.RESIZING) if seen < found.metadata.generation else None


def amounts(found: Amounts) -> Resources:
    """Returns the CPU and memory of a container, each empty if it is not set."""
    requests, limits = found.requests, found.limits
    return Resources(
        cpu_request=requests.get("cpu", ""),
        cpu_limit=limits.get("cpu", ""),
        memory_request=requests.get("memory", ""),
        memory_limit=limits.get("memory", ""),
    )


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the API server has refused for a generation, as the status says it. `again_at`: when it is asked for again."""

    generation: int
    growth: Growth
    again_at: float

    @property
    def recent(self) -> bool:
        """Whether it is not asked for again yet."""
        return time.monotonic() < self.again_at


class Refusals:
    """The refusals of what the claims, or the pods, of sandboxes were to ask for, by the uid of the sandbox.

    A refusal counts for its generation, and for a while: the storage class or a quota may change.
    """

    def __init__(self, pace: Pace) -> None:
        self._again = pace.resize_again
        self._of: dict[str, Refusal] = {}

    def refused(self, sandbox: Sandbox, fault: Fault) -> None:
        """Notes that the API server has refused what the sandbox asks for."""
        reason = Reason.CLASS_NOT_EXPANDABLE if _NOT_EXPANDABLE in fault.message else fault.reason
        again_at = time.monotonic() + self._again
        self._of[sandbox.uid] = Refusal(sandbox.generation, Growth(reason, fault.message), again_at)

    def allowed(self, sandbox: Sandbox) -> None:
        """Forgets a refusal."""
        self._of.pop(sandbox.uid, None)

    def of(self, sandbox: Sandbox) -> Refusal | None:
        """Returns the last refusal for the sandbox's generation."""
        found = self._of.get(sandbox.uid)
        return found if found is not None and found.generation == sandbox.generation else None
