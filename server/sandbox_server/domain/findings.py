"""The causes that the lifecycle's rules find in a situation. Each question returns None where its rule does not hold."""

from dataclasses import dataclass
from datetime import timedelta

from sandbox_server.domain import disruption
from sandbox_server.domain.observed import Fault, Pod
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.domain.situation import NAMESPACE_ENDS, Situation

ACCEPTED = "accepted"


@dataclass(frozen=True, slots=True)
class Finding:
    """The cause of a phase, as the status says it."""

    reason: Reason
    message: str


def _cause(of: Fault | Pod | None) -> Finding | None:
    return None if of is None else Finding(of.reason, of.message)


def _cause_if(of: Fault | Pod | None, reason: Reason) -> Finding | None:
    return _cause(of) if of is not None and of.reason is reason else None


def _if(holds: bool, reason: Reason, message: str) -> Finding | None:
    return Finding(reason, message) if holds else None


def accepted(at: Situation) -> Finding | None:
    """A mutation was accepted, and nothing has been observed since."""
    return _if(at.accepted, Reason.ACCEPTED, ACCEPTED)


def accepted_while_stopped(at: Situation) -> Finding | None:
    """A mutation of a sandbox that is STOPPED was accepted, such as one of its environment."""
    return accepted(at) if at.sandbox.status.phase is Phase.STOPPED else None


def unobservable_settled(at: Situation) -> Finding | None:
    """The namespace is unobservable, and the sandbox had reached its generation. It is taken to be as it was last seen.

    Where the namespace is being removed, the sandbox cannot stay so.
    """
    status, cause = at.sandbox.status, at.unobservable
    if cause is None or cause.reason is Reason.NAMESPACE_TERMINATING:
        return None
    return _if(status.observed_generation == at.sandbox.generation, status.reason, status.message)


def unobservable_ending(at: Situation) -> Finding | None:
    """The namespace is unobservable because it is being removed."""
    return _cause_if(at.unobservable, Reason.NAMESPACE_TERMINATING)


def unobservable_busy(at: Situation) -> Finding | None:
    """The namespace is unobservable because the engine answers that it cannot show it now."""
    return _cause_if(at.unobservable, Reason.CLUSTER_BUSY)


def unobservable(at: Situation) -> Finding | None:
    """The namespace is unobservable."""
    return _cause(at.unobservable)


def namespace_ends(at: Situation) -> Finding | None:
    """The namespace takes nothing new. That it may be gone counts only where it would explain a loss."""
    known = at.namespace is not None and at.namespace.reason in NAMESPACE_ENDS
    return _cause(at.namespace) if known or at.bereft() else None


def namespace_holds(at: Situation) -> Finding | None:
    """The namespace is being removed, and something of the sandbox is left in it."""
    left = any(one is not None for one in (at.workload, at.pod, at.volume))
    return _cause_if(at.namespace, Reason.NAMESPACE_TERMINATING) if left else None


def foreign_object(at: Situation) -> Finding | None:
    """An object of the sandbox's name was not made for it."""
    kind = at.foreign_kind()
    message = f"a {kind} of this name belongs to somebody else; it is left alone. Remove it or choose another id"
    return _if(kind is not None, Reason.NAME_CONFLICT, message)


def refused(at: Situation) -> Finding | None:
    """The engine refused the last act. That the namespace may be gone is added where that would explain it."""
    fault, namespace = at.fault, at.namespace
    if fault is None or namespace is None or fault.reason is not Reason.CLUSTER_FORBIDDEN:
        return _cause(fault)
    return Finding(fault.reason, f"{fault.message}; {namespace.message}")


def busy(at: Situation) -> Finding | None:
    """The engine answers that it cannot act now."""
    return _cause_if(at.fault, Reason.CLUSTER_BUSY)


def controller_idle(at: Situation) -> Finding | None:
    """The controller of the workload has had enough time to act on it, and has not done so."""
    message = (
        "waiting for the cluster's StatefulSet controller, which has not acted on the workload: the controller manager is "
        "down, or something denies what it writes, such as ControllerRevisions"
    )
    return _if(at.unattended(), Reason.WORKLOAD_PENDING, message)


def volume_lost(at: Situation) -> Finding | None:
    """The disk with the data is gone, or on its way with no pod left to hold it."""
    message = "the disk was lost, removed or replaced; Start with accept_data_loss begins on an empty one"
    return _if(at.volume_lost(), Reason.VOLUME_LOST, message)


def volume_going(at: Situation) -> Finding | None:
    """The disk with the data goes as soon as the pod that holds it does."""
    message = "the disk is being removed and goes with the pod: save your work now"
    return _if(at.volume_going(), Reason.VOLUME_TERMINATING, message)


def ready_on_doomed_volume(at: Situation) -> Finding | None:
    """The pod of this generation is ready, and its disk goes with it."""
    return volume_going(at) if at.pod_ready() else None


def volume_awaited(at: Situation) -> Finding | None:
    """The pod waits for the volume."""
    return _if(at.volume_awaited(), Reason.VOLUME_BINDING, "waiting for the volume")


def volume_misled(at: Situation) -> Finding | None:
    """The disk was made without the files of what the sandbox was created from."""
    misled = at.volume_misled()
    words = f"{misled}: delete the sandbox and create it with a storage class of that driver"
    return _if(misled != "", Reason.RESTORE_FAILED, words)


def volume_restoring(at: Situation) -> Finding | None:
    """The volume is made from a snapshot or another disk, and the pod waits for it."""
    origin = at.sandbox.origin
    if origin is None or not (at.restoring or at.volume_awaited()):
        return None
    source = "a snapshot" if origin.snapshot_uid else "the disk"
    words = f"the disk is being made from {source} of {origin.sandbox.id}"
    if at.restoring:
        words = f"{words}: {at.restoring}"
    if at.now >= at.sandbox.attempt_at + timedelta(seconds=at.pace.start_deadline):
        words = f"{words}; it was asked for at {at.sandbox.attempt_at:%Y-%m-%d %H:%M:%S} UTC"
    return Finding(Reason.VOLUME_RESTORING, words)


def home_not_moved(at: Situation) -> Finding | None:
    """The files of a former pod cannot be copied."""
    failure = at.move.failure if at.move is not None else ""
    return _if(failure != "", Reason.HOME_NOT_MOVED, failure)


def home_not_released(at: Situation) -> Finding | None:
    """The pod that has the files of a former pod is ready, and it cannot be found out what that pod has written since."""
    return home_not_moved(at) if at.pod_ready() else None


def home_moving(at: Situation) -> Finding | None:
    """The files of a former pod are being copied, or that pod has not been let go yet although nothing else is waited for."""
    move, stops = at.move, at.sandbox.desired is DesiredState.STOPPED
    waits = move is not None and (stops or not move.copied)
    return _if(waits, Reason.HOME_MOVING, move.message if move is not None else "")


def home_released(at: Situation) -> Finding | None:
    """The pod that has the files of a former pod is ready, and that pod has not been let go yet."""
    return _if(
        at.move is not None and at.pod_ready(), Reason.HOME_MOVING, at.move.message if at.move is not None else ""
    )


def volume_kept(at: Situation) -> Finding | None:
    """The claim is there and stays."""
    return _if(at.volume_kept(), Reason.VOLUME_KEPT, "removed; the disk is kept")


def volume_kept_lost(at: Situation) -> Finding | None:
    """The claim is there and stays, without its volume."""
    lost = at.volume is not None and at.volume.lost
    message = "removed; the claim is kept, but the volume that it was bound to no longer exists"
    return _if(at.volume_kept() and lost, Reason.VOLUME_KEPT, message)


def volume_left(at: Situation) -> Finding | None:
    """There is a volume, which is to go."""
    volume = at.volume
    if volume is None:
        return None
    held = f"; the claim {volume.name} has the finalizers: {', '.join(volume.held_by)}" if volume.held_by else ""
    return Finding(Reason.VOLUME_TERMINATING, f"the volume is being removed{held}")


def workload_missing(at: Situation) -> Finding | None:
    """There is no workload, and there is to be one."""
    return _if(at.workload is None, Reason.WORKLOAD_PENDING, "the workload is being made")


def workload_idle(at: Situation) -> Finding | None:
    """There is no pod, and none will be made."""
    idle = at.workload is not None and at.workload.replicas == 0 and at.workload.controller_caught_up
    return _if(idle, Reason.POD_GONE, "stopped; the disk is kept")


def workload_active(at: Situation) -> Finding:
    """The workload may still make a pod, or is being removed."""
    return Finding(Reason.WORKLOAD_PENDING, _held(at) or at.restoring or "the workload is being scaled down")


def snapshot_awaited(at: Situation) -> Finding | None:
    """Nothing of the disk goes before a snapshot of it is taken."""
    awaited = at.sandbox.last_snapshot
    return None if awaited is None else Finding(Reason.LAST_SNAPSHOT, awaited.message)


def deletion_pending(at: Situation) -> Finding | None:
    """The workload is there, or its removal has not been asked for."""
    pending = at.workload is not None or not at.applied_current_generation()
    return _if(pending, Reason.WORKLOAD_PENDING, _held(at) or "the workload is being removed")


def given_back(at: Situation) -> Finding | None:
    """The sandbox was adopted, and nothing of it is the sandbox's any more."""
    adopted = at.sandbox.adopted
    back = adopted is not None and adopted.given_back
    return _if(back, Reason.GIVEN_BACK, "given back to the former system, as it was")


def nothing_left(_: Situation) -> Finding:
    """Nothing of the sandbox is left."""
    return Finding(Reason.DELETED, "removed with its disk")


def ready_contested(at: Situation) -> Finding | None:
    """Somebody undoes each time what the service writes, and the pod is ready all the same."""
    return _cause_if(at.fault, Reason.FIELD_CONFLICT) if at.pod_ready() else None


def pod_ready(at: Situation) -> Finding | None:
    """The pod of this generation is ready, and its readiness counts."""
    return _if(at.pod_ready(), Reason.READY, "the pod is ready")


def node_lost(at: Situation) -> Finding | None:
    """The pod's node does not answer."""
    return _cause_if(at.pod, Reason.NODE_LOST)


def pod_impossible(at: Situation) -> Finding | None:
    """The cluster cannot make the pod, while there is none and there is to be one."""
    return _cause(at.workload.fault) if at.workload is not None and at.pod_missing() else None


def pod_failing(at: Situation) -> Finding | None:
    """An error keeps the pod of this generation from being ready."""
    pod = at.pod_current()
    if pod is None or not pod.reason.is_error or pod.disruption is not None or at.error_passes(pod):
        return None
    return _cause(pod)


def pod_failed_lately(at: Situation) -> Finding | None:
    """The process was started again after a failure that is reported, and has not been ready for long enough since."""
    pod, status = at.pod_current(), at.sandbox.status
    reported = status.phase is Phase.ERROR and status.reason.is_failed_run
    recent = pod is not None and pod.recent_until is not None and at.now < pod.recent_until
    return _if(reported and recent, status.reason, status.message)


def pod_disrupted_often(at: Situation) -> Finding | None:
    """The cluster ends one pod after the other. Holds from there on until a pod is ready."""
    status, last = at.sandbox.status, at.last_disruption
    if last is None or last.count < disruption.OFTEN:
        return None
    reported = status.phase is Phase.ERROR and status.reason.is_disruption
    holds = reported or pod_disrupted(at) is not None
    return _if(holds, last.reason, f"{last.message}; {last.count} times in a row")


def start_overdue(at: Situation) -> Finding | None:
    """The start deadline has passed. The message says what was seen last."""
    if at.now < at.start_deadline_at:
        return None
    seen = Reason.WORKLOAD_PENDING.name if at.pod is None else f"{at.pod.reason.name} {at.pod.message}"
    message = f"not ready within {int(at.pace.start_deadline)} s; last seen: {seen}"
    return Finding(Reason.START_DEADLINE, message.rstrip())


def pod_disrupted(at: Situation) -> Finding | None:
    """The cluster ended the pod: at the first look after it, and while that pod is there or none is since.

    A failed pod is removed and replaced within milliseconds, so that the first look may find its successor.
    """
    found, last = at.disruption, at.last_disruption
    if found is None or last is None:
        return None
    reported = at.pod is None and at.sandbox.status.reason.is_disruption
    present = at.pod is not None and at.pod.disruption == found
    holds = at.newly_disrupted() or reported or present
    return _if(holds, last.reason, f"{last.message}; the pod is being replaced")


def pod_missing(at: Situation) -> Finding | None:
    """There is no pod."""
    return _if(at.pod is None, Reason.WORKLOAD_PENDING, _held(at) or "waiting for the pod")


def pod_untried(at: Situation) -> Finding | None:
    """The pod of this generation is ready, for too short a time to count."""
    pod = at.pod_current()
    untried = pod is not None and pod.ready and not pod.counts(at.now)
    return _if(untried, Reason.NOT_READY, "the process runs; it counts as ready when it has done so for a while")


def pod_starting(at: Situation) -> Finding | None:
    """The pod of this generation is not ready. An error that may pass belongs to the making of the container."""
    pod = at.pod_current()
    if pod is None:
        return None
    return Finding(Reason.CONTAINER_CREATING if at.error_passes(pod) else pod.reason, pod.message)


def pod_replaced(at: Situation) -> Finding:
    """The pod makes way for one of this generation."""
    return Finding(Reason.ROLLING_OUT, f"the pod is being replaced: {_ends(at)}")


def pod_removed(at: Situation) -> Finding | None:
    """There is a pod, which is to go."""
    return _if(at.pod is not None, Reason.POD_TERMINATING, f"the pod is being removed: {_ends(at)}")


def _held(at: Situation) -> str:
    """Which finalizers keep the workload while it is being removed; empty if none does."""
    held = at.workload.held_by if at.workload is not None else ()
    return f"the StatefulSet {at.sandbox.id} is being removed; it has the finalizers: {', '.join(held)}" if held else ""


def _ends(at: Situation) -> str:
    return f"waits for the process to end, at most {at.sandbox.spec.grace_period_seconds} s"
