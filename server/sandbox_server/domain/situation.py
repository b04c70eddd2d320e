"""A sandbox and what is observed of it, and what the two mean together. The lifecycle's rules and acts rest on it."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sandbox_server.domain import disruption, ownership
from sandbox_server.domain.observed import Disruption, Fault, Move, Observed, Pod, Volume, Workload
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import DisruptionStatus, Sandbox

NAMESPACE_ENDS = (Reason.NAMESPACE_MISSING, Reason.NAMESPACE_TERMINATING)
NAMESPACE_SYMPTOMS = (*NAMESPACE_ENDS, Reason.CLUSTER_FORBIDDEN)
"""Reasons of a refusal that are about the namespace, or that the removal of the service's Role with it would explain."""

TAKES_LONG = (Reason.VOLUME_RESTORING, Reason.HOME_MOVING, Reason.HOME_NOT_MOVED)
"""Reasons of a sandbox whose disk is being filled, for which no start deadline counts."""


@dataclass(frozen=True, slots=True)
class Situation:
    """A sandbox, and what the engine shows of it now.

    `accepted`: a mutation was accepted, and nothing has been observed since. `fault` says why the last act was refused or
    does not last. `restoring`: see `Observed`.
    """

    sandbox: Sandbox
    accepted: bool
    unobservable: Fault | None
    now: datetime
    pace: Pace
    workload: Workload | None
    pod: Pod | None
    volume: Volume | None
    fault: Fault | None
    namespace: Fault | None
    disruption: Disruption | None
    last_disruption: DisruptionStatus | None
    restoring: str
    move: Move | None

    @classmethod
    def of(
        cls, sandbox: Sandbox, observed: Observed | None, now: datetime, pace: Pace, refusal: Fault | None = None
    ) -> "Situation":
        """Returns the situation of `sandbox`. Foreign objects do not count once the sandbox is to be deleted.

        `observed` is None for a mutation that was just accepted. `refusal` says why the engine refused the last act.
        """
        accepted = observed is None
        observed = observed or Observed()
        workload, pod, volume = observed.workload, observed.pod, observed.volume
        if sandbox.desired is DesiredState.DELETED:
            if workload is not None and not ownership.owned(sandbox, workload):
                workload = None
            if pod is not None and not ownership.owned(sandbox, pod):
                pod = None
            if volume is not None and not ownership.owned(sandbox, volume):
                volume = None
        fault = observed.fault if refusal is None else refusal
        namespace = observed.namespace
        if namespace is None and fault is not None and fault.reason in NAMESPACE_ENDS:
            namespace = fault
        return cls(
            sandbox=sandbox,
            accepted=accepted,
            unobservable=observed.unobservable,
            now=now,
            pace=pace,
            workload=workload,
            pod=pod,
            volume=volume,
            fault=fault,
            namespace=namespace,
            disruption=observed.disruption,
            last_disruption=disruption.last(sandbox, observed, now),
            restoring=observed.restoring,
            move=observed.move,
        )

    @property
    def seen(self) -> bool:
        """Whether anything is known of what the engine has for the sandbox now."""
        return not self.accepted and self.unobservable is None

    @property
    def attempt_at(self) -> datetime:
        """When the present attempt to run began: now, if the sandbox was RUNNING when it was last reconciled, or its disk
        was being made from another or filled from a former pod, which may take long."""
        status = self.sandbox.status
        begins = status.phase is Phase.RUNNING or status.reason in TAKES_LONG
        return self.now if begins else self.sandbox.attempt_at

    @property
    def start_deadline_at(self) -> datetime:
        """When the present attempt to run counts as failed."""
        return self.attempt_at + timedelta(seconds=self.pace.start_deadline)

    def applied_current_generation(self) -> bool:
        """The act for this generation has succeeded once."""
        return self.sandbox.applied_generation == self.sandbox.generation

    def bereft(self) -> bool:
        """Something of the sandbox is gone or going although nothing here asked for that."""
        if self.sandbox.desired is DesiredState.DELETED or not self.applied_current_generation():
            return False
        fell = self.sandbox.status.phase is Phase.RUNNING and (self.pod is None or self.pod.terminating)
        removed = self.workload is None or self.workload.terminating
        return fell or removed or self.volume_lost() or self.volume_going()

    def unexplained(self) -> bool:
        """Something is gone, going or refused, which the end of the namespace may explain."""
        return self.bereft() or (self.fault is not None and self.fault.reason in NAMESPACE_SYMPTOMS)

    def foreign_kind(self) -> str | None:
        """Returns the kind of an object that has the sandbox's name and was not made for it; None if there is none."""
        # The disk of a sandbox is known by its uid, whoever made it.
        volume = None if self.sandbox.volume_uid else self.volume
        for kind, found in (("StatefulSet", self.workload), ("Pod", self.pod), ("PersistentVolumeClaim", volume)):
            if found is not None and not ownership.made_for(self.sandbox, found):
                return kind
        return None

    def volume_lost(self) -> bool:
        """The disk with the data is gone, replaced, without its volume, or going with no pod left to hold it."""
        known, volume = self.sandbox.volume_uid, self.volume
        if not known:
            return False
        if volume is None or volume.uid != known or volume.lost:
            return True
        return volume.terminating and self.pod is None

    def volume_misled(self) -> str:
        """Returns why the disk is not made from what the sandbox was created from; empty if it is, or may be yet."""
        return self.volume.misled if self.volume is not None and self.sandbox.origin is not None else ""

    def volume_discarded(self) -> bool:
        """The claim lost its volume and holds no data of the sandbox: a fresh one has to replace it."""
        return not self.sandbox.volume_uid and self.volume is not None and self.volume.lost

    def volume_to_resize(self) -> bool:
        """The disk with the data has less than the sandbox asks for, and its claim does not ask for that."""
        volume = self.volume
        known = volume is not None and volume.uid == self.sandbox.volume_uid
        return volume is not None and known and volume.needs_request(self.sandbox.spec.storage.size)

    def pod_to_resize(self) -> bool:
        """The pod of this generation has a node, and was not given the resources of the sandbox yet."""
        pod = self.pod_current()
        return pod is not None and pod.awaits_resize and pod.scheduled

    def volume_going(self) -> bool:
        """The disk with the data goes as soon as the pod that holds it does."""
        going = self.volume is not None and self.volume.terminating and self.pod is not None
        return going and self.sandbox.volume_uid != ""

    def volume_awaited(self) -> bool:
        """The pod waits for the volume."""
        waits = self.pod is None or self.pod.reason is Reason.SCHEDULING
        return waits and self.volume is not None and not self.volume.bound

    def volume_kept(self) -> bool:
        """The claim is there and stays."""
        return self.sandbox.keep_volume and self.volume is not None and not self.volume.terminating

    def unattended(self) -> bool:
        """The controller has had enough time to act on the workload as it is, and has not done so."""
        ignored_at = self.workload.ignored_at if self.workload else None
        return ignored_at is not None and self.now >= ignored_at

    def rollout_stuck(self) -> bool:
        """The controller has had enough time to remove an outdated pod, and has not done so.

        Holds until the pod is being removed, so that a workload that was scaled down for it stays so until then.
        """
        workload = self.workload
        if workload is None or not self.pod_outdated():
            return False
        return workload.replicas == 0 or (workload.controller_caught_up and self.unattended())

    def pod_current(self) -> Pod | None:
        """Returns the pod if it is of this generation and stays."""
        pod = self.pod
        if pod is None or pod.terminating or pod.generation != self.sandbox.pod_generation:
            return None
        return pod

    def pod_ready(self) -> bool:
        """The pod of this generation is ready, and its readiness counts."""
        pod = self.pod_current()
        return pod is not None and pod.counts(self.now)

    def pod_missing(self) -> bool:
        """The workload is as it should be, and there is no pod: it is its controller's turn."""
        return self.workload is not None and self.workload.replicas > 0 and self.pod is None

    def pod_outdated(self) -> bool:
        """The pod was made from an earlier template, is not ready and is not being removed, although the workload is current.

        The StatefulSet controller of Kubernetes 1.35.0 to 1.35.3 leaves such a pod in place for ever (kubernetes#137409).
        Elsewhere it deletes it within a second.
        """
        pod, workload = self.pod, self.workload
        if pod is None or workload is None or pod.ready or pod.terminating:
            return False
        if self.sandbox.awaits_takeover and not self.sandbox.moves:
            # Its template and its rollout are the former system's.
            return False
        return workload.generation == self.sandbox.generation and pod.outdated(workload, self.sandbox.pod_generation)

    def error_passes(self, pod: Pod) -> bool:
        """The pod's error may be over with the next try. One that was reported as an error stays so: a kubelet shows its
        last failure and its back-off in turn."""
        status = self.sandbox.status
        reported = status.phase is Phase.ERROR and status.reason is pod.reason
        return pod.passing and not reported

    def newly_disrupted(self) -> bool:
        """A disruption is observed that is not recorded yet."""
        return self.disruption is not None and self.disruption.pod != self.sandbox.disrupted_pod
