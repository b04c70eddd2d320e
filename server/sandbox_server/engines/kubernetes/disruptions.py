"""The ends of whole pods that neither the caller nor the service asked for.

A kubelet that ends or refuses a pod sets its phase to Failed and gives a reason. A component that removes a pod through the
API sets the condition DisruptionTarget.
"""

from sandbox_server.domain.observed import Disruption
from sandbox_server.domain.phase import Reason
from sandbox_server.engines.kubernetes.objects import Object, State

_FAILED = {
    # kubelet/eviction/eviction_manager.go, and kubelet/lifecycle/predicate.go for a pod that is not admitted
    "Evicted": Reason.EVICTED,
    # kubelet/preemption/preemption.go, for a critical pod
    "Preempting": Reason.PREEMPTED,
    # kubelet/nodeshutdown: for a pod that ran, for a pod that came too late, and for both before 1.22
    "Terminated": Reason.NODE_SHUTDOWN,
    "NodeShutdown": Reason.NODE_SHUTDOWN,
    "Shutdown": Reason.NODE_SHUTDOWN,
    "NodeLost": Reason.NODE_LOST,
}

_TARGETED = {
    # scheduler/framework/preemption
    "PreemptionByScheduler": Reason.PREEMPTED,
    # registry/core/pod/storage/eviction.go
    "EvictionByEvictionAPI": Reason.DRAINED,
    # controller/tainteviction/taint_eviction.go
    "DeletionByTaintManager": Reason.NODE_TAINTED,
    # controller/podgc/gc_controller.go: the node object is gone
    "DeletionByPodGC": Reason.NODE_LOST,
}


def of(found: Object) -> Disruption | None:
    """Returns why the cluster ends a pod or has ended it; None if it has not."""
    status, meta = found.status, found.metadata
    conditions = {one.type: one for one in status.conditions}
    target, ready = conditions.get("DisruptionTarget", State()), conditions.get("Ready", State())
    # The condition is set before the deletion, and removed again if the deletion fails.
    is_going = target.status == "True" and (meta.deletionTimestamp is not None or ready.status != "True")
    if status.phase == "Failed" and status.reason:
        # All other reasons are of kubelets that do not admit the pod, such as OutOfcpu and NodeAffinity.
        reason = _FAILED.get(status.reason, Reason.NODE_REJECTED)
        return Disruption(meta.uid, reason, _words(status.reason, status.message))
    if is_going:
        reason = _TARGETED.get(target.reason) or _by_kubelet(target.message)
        return Disruption(meta.uid, reason, _words(target.reason, target.message))
    if status.phase == "Failed":
        return Disruption(meta.uid, Reason.EVICTED, _words("Failed", status.message))
    return None


def _by_kubelet(message: str) -> Reason:
    """Returns why a kubelet ends a pod, from the message of the condition: the pod has no reason yet."""
    if "preempted" in message:
        return Reason.PREEMPTED
    return Reason.NODE_SHUTDOWN if "shutdown" in message else Reason.EVICTED


def _words(reason: str, message: str) -> str:
    return ": ".join(filter(None, (reason, message.strip())))
