"""What the lifecycle's rules ask of a sandbox and what is observed of it.

A question that says more than yes gives what it found: something with a reason and a message, or words.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sandbox_server.domain import disruption
from sandbox_server.domain.observed import Disruption, Fault, Observed, Pod, Volume, Workload
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import DisruptionStatus, Sandbox

ROLLOUT_GUARD = timedelta(seconds=5)
"""How long the controller may leave a broken pod of an earlier generation in place. It deletes such a pod within a
second where it works as documented."""

CONTROLLER_GUARD = timedelta(seconds=5)
"""How long the controller may take to see a workload as it now is. It needs less than a second where it works."""
NAMESPACE_ENDS = (Reason.NAMESPACE_MISSING, Reason.NAMESPACE_TERMINATING)
NAMESPACE_SYMPTOMS = (*NAMESPACE_ENDS, Reason.CLUSTER_FORBIDDEN)
"""The reasons of a refusal that tells of the namespace, or that the end of the service's Role in it would explain."""


@dataclass(frozen=True, slots=True)
class Situation:
    """A sandbox, and what the engine shows of it now."""

    sandbox: Sandbox
    now: datetime
    start_deadline: timedelta
    workload: Workload | None
    pod: Pod | None
    volume: Volume | None
    fault: Fault | None
    namespace: Fault | None
    disruption: Disruption | None
    last_disruption: DisruptionStatus | None

    @classmethod
    def of(cls, sandbox: Sandbox, observed: Observed, now: datetime, start_deadline: timedelta) -> "Situation":
        """The situation of `sandbox` where `observed` is shown. Where it is to go, what is not its own does not count."""
        workload, pod, volume = observed.workload, observed.pod, observed.volume
        if sandbox.desired is DesiredState.DELETED:
            workload = workload if workload and workload.owner == sandbox.uid else None
            pod = pod if pod and pod.owner == sandbox.uid else None
            volume = volume if volume and (volume.uid == sandbox.volume_uid or volume.owner == sandbox.uid) else None
        fault = observed.fault
        namespace = observed.namespace or (fault if fault and fault.reason in NAMESPACE_ENDS else None)
        last = disruption.last(sandbox, observed, now)
        return cls(sandbox, now, start_deadline, workload, pod, volume, fault, namespace, observed.disruption, last)

    def bereft(self) -> bool:
        """Something of the sandbox is gone or going although nothing here asked for that."""
        if self.sandbox.desired is DesiredState.DELETED or not self.acted():
            return False
        fell = self.sandbox.status.phase is Phase.RUNNING and (self.pod is None or self.pod.terminating)
        removed = self.workload is None or self.workload.terminating
        return fell or removed or self.volume_lost() or self.volume_going()

    def unexplained(self) -> bool:
        """Something is gone, going or refused, which the end of the namespace may explain."""
        return self.bereft() or (self.fault is not None and self.fault.reason in NAMESPACE_SYMPTOMS)

    def namespace_ends(self) -> Fault | None:
        """Why the namespace takes nothing new. That it may be gone counts only where it would explain a loss."""
        known = self.namespace is not None and self.namespace.reason in NAMESPACE_ENDS
        return self.namespace if known or self.bereft() else None

    def namespace_holds(self) -> Fault | None:
        """The namespace is being removed, and something of the sandbox is left in it."""
        going = self.namespace is not None and self.namespace.reason is Reason.NAMESPACE_TERMINATING
        return self.namespace if going and (self.workload or self.pod or self.volume) else None

    def refused(self) -> Fault | None:
        """Why the engine refused the last act, and that the namespace may be gone where that would explain it."""
        fault, namespace = self.fault, self.namespace
        if fault is None or namespace is None or fault.reason is not Reason.CLUSTER_FORBIDDEN:
            return fault
        return Fault(fault.reason, f"{fault.message}; {namespace.message}")

    def stranger(self) -> str:
        """The kind of an object that stands under our name and is not ours; empty if there is none."""
        volume = None if self.sandbox.volume_uid else self.volume
        seen = (("StatefulSet", self.workload), ("Pod", self.pod), ("PersistentVolumeClaim", volume))
        return next((kind for kind, one in seen if one and one.owner != self.sandbox.uid), "")

    def busy(self) -> Fault | None:
        """What the engine answers, if it is that it cannot act now."""
        return self.fault if self.fault and self.fault.reason is Reason.CLUSTER_BUSY else None

    def ready_contested(self) -> Fault | None:
        """What somebody undoes each time, where the pod is ready all the same."""
        contested = self.fault if self.fault and self.fault.reason is Reason.FIELD_CONFLICT else None
        return contested if self.pod_ready() else None

    def volume_lost(self) -> bool:
        """The disk with the data is gone, replaced, without its volume, or going with no pod left to hold it."""
        known, volume = self.sandbox.volume_uid, self.volume
        stands = volume is not None and volume.uid == known and not volume.lost
        held = stands and volume is not None and not (volume.terminating and self.pod is None)
        return bool(known) and not held

    def volume_discarded(self) -> bool:
        """The claim lost its volume and holds no data of the sandbox: a fresh one has to replace it."""
        return not self.sandbox.volume_uid and self.volume is not None and self.volume.lost

    def volume_going(self) -> bool:
        """The disk with the data goes as soon as the pod that holds it does."""
        return bool(self.sandbox.volume_uid and self.volume and self.volume.terminating and self.pod)

    def volume_awaited(self) -> bool:
        """The pod waits for the volume."""
        waits = self.pod is None or self.pod.reason is Reason.SCHEDULING
        return waits and self.volume is not None and not self.volume.bound

    def volume_kept(self) -> bool:
        """The claim is there and stays."""
        return self.sandbox.keep_volume and self.volume is not None and not self.volume.terminating

    def volume_kept_lost(self) -> bool:
        """The claim is there and stays, without its volume."""
        return self.volume_kept() and self.volume is not None and self.volume.lost

    def pod_current(self) -> Pod | None:
        """The pod, if it is of this generation and stays."""
        pod = self.pod
        return pod if pod and not pod.terminating and pod.generation == self.sandbox.generation else None

    def pod_ready(self) -> bool:
        """The pod of this generation is ready, and its readiness counts."""
        pod = self.pod_current()
        return pod is not None and pod.counts(self.now)

    def pod_untried(self) -> bool:
        """The pod of this generation is ready, for too short a time to count."""
        pod = self.pod_current()
        return pod is not None and pod.ready and not pod.counts(self.now)

    def pod_failed_lately(self) -> Fault | None:
        """The reported failure of a process that was started again and has not been ready for long enough since."""
        pod, status = self.pod_current(), self.sandbox.status
        reported = status.phase is Phase.ERROR and status.reason.is_failed_run
        recent = pod is not None and pod.recent_until is not None and self.now < pod.recent_until
        return Fault(status.reason, status.message) if reported and recent else None

    def pod_doomed(self) -> bool:
        """The pod of this generation is ready, and its disk goes with it."""
        return self.pod_ready() and self.volume_going()

    def pod_outdated(self) -> bool:
        """The pod is of an earlier generation, is not ready and is not being removed, although the workload is current.

        The StatefulSet controller of Kubernetes 1.35.0 to 1.35.3 leaves such a pod in place for ever (kubernetes#137409).
        """
        pod, workload = self.pod, self.workload
        if pod is None or workload is None or pod.ready or pod.terminating:
            return False
        current = workload.generation == self.sandbox.generation
        return current and pod.generation < self.sandbox.generation

    def rollout_stuck(self) -> bool:
        """The controller has had `ROLLOUT_GUARD` since the mutation to remove an outdated pod, and has not done so.

        Holds until the pod is being removed, so that a workload that was scaled down for it stays so until then.
        """
        workload = self.workload
        seen = workload is not None and (workload.obeyed or workload.replicas == 0)
        return seen and self.pod_outdated() and self.now >= self.attempt_at + ROLLOUT_GUARD

    def unattended(self) -> bool:
        """The controller has had `CONTROLLER_GUARD` since the mutation to act on the workload, and has not done so."""
        workload = self.workload
        waits = workload is not None and not workload.obeyed and not (self.pod and self.pod.terminating)
        return waits and self.now >= self.attempt_at + CONTROLLER_GUARD

    def pod_failing(self) -> Pod | None:
        """The pod of this generation, if an error keeps it from being ready."""
        pod = self.pod_current()
        failing = pod is not None and pod.reason.is_error and pod.disruption is None
        return pod if pod and failing and not self._passing(pod) else None

    def pod_starting(self) -> Pod | None:
        """The pod of this generation. An error that may pass belongs to the making of the container."""
        pod = self.pod_current()
        return replace(pod, reason=Reason.CONTAINER_CREATING) if pod and self._passing(pod) else pod

    def _passing(self, pod: Pod) -> bool:
        """The pod's error may be over with the next try. One that was reported as an error stays so: a kubelet shows its
        last failure and its back-off in turn."""
        status = self.sandbox.status
        reported = status.phase is Phase.ERROR and status.reason is pod.reason
        return pod.passing and not reported

    def newly_disrupted(self) -> bool:
        """A disruption is observed that is not recorded yet."""
        return self.disruption is not None and self.disruption.pod != self.sandbox.disrupted_pod

    def pod_disrupted(self) -> Fault | None:
        """What the cluster ended the pod for: at the first look after it, and while that pod is there or none is since.

        A failed pod is removed and replaced within milliseconds, so that the first look may find its successor.
        """
        found, last = self.disruption, self.last_disruption
        if found is None or last is None:
            return None
        reported = self.pod is None and self.sandbox.status.reason.is_disruption
        there = self.pod is not None and self.pod.disruption == found
        present = self.newly_disrupted() or reported or there
        return Fault(last.reason, f"{last.message}; the pod is being replaced") if present else None

    def pod_disrupted_often(self) -> Fault | None:
        """What the cluster ends one pod after the other for, from there on until a pod is ready."""
        status, last = self.sandbox.status, self.last_disruption
        if last is None or last.count < disruption.OFTEN:
            return None
        reported = status.phase is Phase.ERROR and status.reason.is_disruption
        said = Fault(last.reason, f"{last.message}; {last.count} times in a row")
        return said if reported or self.pod_disrupted() else None

    def pod_impossible(self) -> Fault | None:
        """Why the cluster cannot make the pod, while there is none and there is to be one."""
        return self.workload.fault if self.workload and self.pod_missing() else None

    def grace(self) -> str:
        """How long the process may take to end after SIGTERM."""
        return f"{self.sandbox.spec.grace_period_seconds} s"

    def pod_grace(self) -> str:
        """How long the process of the pod may take to end; empty if there is no pod."""
        return self.grace() if self.pod else ""

    def pod_lost(self) -> Pod | None:
        """The pod, if its node does not answer."""
        return self.pod if self.pod and self.pod.reason is Reason.NODE_LOST else None

    def pod_missing(self) -> bool:
        """The workload is as it should be, and there is no pod: it is its controller's turn."""
        return self.workload is not None and self.workload.replicas > 0 and self.pod is None

    def workload_idle(self) -> bool:
        """No pod will be made."""
        return self.workload is not None and self.workload.replicas == 0 and self.workload.obeyed

    def undeleted(self) -> bool:
        """The workload is there, or its removal has not been asked for."""
        return self.workload is not None or not self.acted()

    def acted(self) -> bool:
        """The act for this generation has succeeded once."""
        return self.sandbox.applied_generation == self.sandbox.generation

    @property
    def attempt_at(self) -> datetime:
        """When the present attempt to run began: now, if the sandbox was RUNNING when it was last reconciled."""
        return self.now if self.sandbox.status.phase is Phase.RUNNING else self.sandbox.attempt_at

    def overdue(self) -> str:
        """The start deadline and what was seen last, once it has passed."""
        if self.now < self.attempt_at + self.start_deadline:
            return ""
        seen = f"{self.pod.reason.name} {self.pod.message}" if self.pod else Reason.WORKLOAD_PENDING.name
        return f"{int(self.start_deadline.total_seconds())} s; last seen: {seen}".rstrip()

    def any(self) -> bool:
        """Whatever else holds."""
        return True
