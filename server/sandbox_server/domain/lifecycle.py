"""The life of a sandbox: every phase is decided here and nowhere else.

`decide` is pure and level-triggered. It reads three tables of rules, one per desired state, top down; the first rule
that holds gives phase and reason. What to do follows separately, from where the engine stands and where it should.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sandbox_server.domain.sandbox import DesiredState, Observed, Phase, Reason, Sandbox

DEFAULT_START_DEADLINE = timedelta(minutes=10)
"""How long an attempt to run may take before it is called failed: a cold pull of a 2 GB image fits twice."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Make the engine's objects for the present generation, with so many replicas."""

    replicas: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove the engine's objects; the volume too, unless it is kept."""

    keep_volume: bool


Action = Apply | Delete


@dataclass(frozen=True, slots=True)
class Decision:
    """What the sandbox's phase is, why, and what to do about it.

    `settled` says that the generation is reached: desired phase, nothing left to do. `recheck_at` is when time alone
    may change the decision.
    """

    phase: Phase
    reason: Reason
    message: str
    action: Action | None = None
    settled: bool = False
    recheck_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """A sandbox, what is observed of it, and what the rules ask about the two."""

    sandbox: Sandbox
    observed: Observed
    now: datetime
    start_deadline: timedelta

    @property
    def stranger(self) -> str:
        """The kind of an object that stands under our name and is not ours; empty if there is none."""
        workload, pod, volume = self.observed.workload, self.observed.pod, self.observed.volume
        if workload and workload.owner != self.sandbox.uid:
            return "StatefulSet"
        if pod and pod.owner != self.sandbox.uid:
            return "Pod"
        if volume and not self.sandbox.volume_uid and volume.owner != self.sandbox.uid:
            return "PersistentVolumeClaim"
        return ""

    @property
    def volume_lost(self) -> bool:
        """The disk with the data is gone, replaced, or going with no pod left to hold it."""
        volume, known = self.observed.volume, self.sandbox.volume_uid
        if not known:
            return False
        if volume is None or volume.uid != known:
            return True
        return volume.terminating and self.observed.pod is None

    @property
    def volume_going(self) -> bool:
        """The disk with the data goes as soon as the pod that holds it does."""
        volume = self.observed.volume
        return bool(self.sandbox.volume_uid and volume and volume.terminating and self.observed.pod)

    @property
    def pod_current(self) -> bool:
        """A pod of this generation is there and stays."""
        pod = self.observed.pod
        return pod is not None and not pod.terminating and pod.generation == self.sandbox.generation

    @property
    def pod_ready(self) -> bool:
        """The pod of this generation is ready."""
        return self.pod_current and self.observed.pod is not None and self.observed.pod.ready

    @property
    def pod_reason(self) -> Reason:
        """Why the pod is not ready."""
        return self.observed.pod.reason if self.observed.pod else Reason.WORKLOAD_PENDING

    @property
    def pod_lost(self) -> bool:
        """The pod's node does not answer."""
        return self.pod_reason is Reason.NODE_LOST

    @property
    def overdue(self) -> bool:
        """The start deadline has passed."""
        return self.now >= self.sandbox.status.attempt_at + self.start_deadline

    @property
    def binding(self) -> bool:
        """The pod waits for the volume."""
        volume = self.observed.volume
        waits = self.observed.pod is None or self.pod_reason is Reason.SCHEDULING
        return waits and volume is not None and not volume.bound

    @property
    def workload_fault(self) -> bool:
        """The cluster says why it cannot make the pod, and there is none."""
        return bool(self.observed.workload and self.observed.workload.fault and self.observed.pod is None)

    @property
    def workload_stopped(self) -> bool:
        """No pod will be made."""
        workload = self.observed.workload
        return workload is not None and workload.replicas == 0

    @property
    def volume_remains(self) -> bool:
        """The sandbox's own volume is there."""
        volume = self.observed.volume
        return volume is not None and (volume.uid == self.sandbox.volume_uid or volume.owner == self.sandbox.uid)

    @property
    def pod_remains(self) -> bool:
        """The sandbox's own pod is there."""
        return self.observed.pod is not None and self.observed.pod.owner == self.sandbox.uid

    @property
    def workload_remains(self) -> bool:
        """The sandbox's own workload is there."""
        return self.observed.workload is not None and self.observed.workload.owner == self.sandbox.uid

    @property
    def acted(self) -> bool:
        """The act for this generation has succeeded once."""
        return self.sandbox.status.applied_generation == self.sandbox.generation


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: when it holds, the phase and the reason. None stands for what `_towards_running`, the pod or the fault says."""

    when: str
    holds: Callable[[Situation], bool]
    phase: Phase | None
    reason: Reason | None
    message: Callable[[Situation], str]


def _said(text: str) -> Callable[[Situation], str]:
    return lambda _: text


def _fault(at: Situation) -> str:
    return at.observed.fault.message if at.observed.fault else ""


def _pod(at: Situation) -> str:
    return at.observed.pod.message if at.observed.pod else ""


def _conflict(at: Situation) -> str:
    return f"a {at.stranger} of this name belongs to somebody else; it is left alone. Remove it or choose another id"


def _workload_fault(at: Situation) -> str:
    fault = at.observed.workload.fault if at.observed.workload else None
    return fault.message if fault else ""


def _overdue(at: Situation) -> str:
    seconds = int(at.start_deadline.total_seconds())
    return f"not ready within {seconds} s; last seen: {at.pod_reason.name} {_pod(at)}".rstrip()


_LOST = "the disk was removed or replaced; Start with accept_data_loss begins on an empty one"
_GOING = "the disk is being removed and goes with the pod: save your work now"

CONFLICT = Rule(
    "an object of our name is not ours", lambda at: bool(at.stranger), Phase.ERROR, Reason.NAME_CONFLICT, _conflict
)
LOST = Rule("the volume is gone or replaced", lambda at: at.volume_lost, Phase.ERROR, Reason.VOLUME_LOST, _said(_LOST))
FAULT = Rule("the engine refused the last act", lambda at: at.observed.fault is not None, Phase.ERROR, None, _fault)

RULES: dict[DesiredState, tuple[Rule, ...]] = {
    DesiredState.RUNNING: (
        CONFLICT,
        LOST,
        Rule(
            "pod ready, volume being removed",
            lambda at: at.pod_ready and at.volume_going,
            Phase.RUNNING,
            Reason.VOLUME_TERMINATING,
            _said(_GOING),
        ),
        Rule("volume being removed", lambda at: at.volume_going, Phase.ERROR, Reason.VOLUME_TERMINATING, _said(_GOING)),
        Rule(
            "pod of this generation ready",
            lambda at: at.pod_ready,
            Phase.RUNNING,
            Reason.READY,
            _said("the pod is ready"),
        ),
        FAULT,
        Rule("the pod's node does not answer", lambda at: at.pod_lost, Phase.ERROR, Reason.NODE_LOST, _pod),
        Rule("the pod cannot be made", lambda at: at.workload_fault, Phase.ERROR, None, _workload_fault),
        Rule(
            "pod of this generation failing",
            lambda at: at.pod_current and at.pod_reason.is_error,
            Phase.ERROR,
            None,
            _pod,
        ),
        Rule("start deadline passed", lambda at: at.overdue, Phase.ERROR, Reason.START_DEADLINE, _overdue),
        Rule(
            "no workload",
            lambda at: at.observed.workload is None,
            None,
            Reason.WORKLOAD_PENDING,
            _said("the workload is being made"),
        ),
        Rule("volume not bound", lambda at: at.binding, None, Reason.VOLUME_BINDING, _said("waiting for the volume")),
        Rule("no pod", lambda at: at.observed.pod is None, None, Reason.WORKLOAD_PENDING, _said("waiting for the pod")),
        Rule(
            "pod of an older generation, or going",
            lambda at: not at.pod_current,
            None,
            Reason.ROLLING_OUT,
            _said("the pod is being replaced"),
        ),
        Rule("pod of this generation not ready", lambda at: True, None, None, _pod),
    ),
    DesiredState.STOPPED: (
        CONFLICT,
        LOST,
        FAULT,
        Rule("the pod's node does not answer", lambda at: at.pod_lost, Phase.STOPPING, Reason.NODE_LOST, _pod),
        Rule(
            "pod there",
            lambda at: at.observed.pod is not None,
            Phase.STOPPING,
            Reason.POD_TERMINATING,
            _said("the pod is being removed"),
        ),
        Rule(
            "no pod, and none will come",
            lambda at: at.workload_stopped,
            Phase.STOPPED,
            Reason.POD_GONE,
            _said("stopped; the disk is kept"),
        ),
        Rule(
            "workload not scaled down yet",
            lambda at: True,
            Phase.STOPPING,
            Reason.WORKLOAD_PENDING,
            _said("the workload is being scaled down"),
        ),
    ),
    DesiredState.DELETED: (
        Rule(
            "terminated before",
            lambda at: at.sandbox.status.phase is Phase.TERMINATED,
            Phase.TERMINATED,
            None,
            lambda at: at.sandbox.status.message,
        ),
        FAULT,
        Rule(
            "the pod's node does not answer",
            lambda at: at.pod_remains and at.pod_lost,
            Phase.TERMINATING,
            Reason.NODE_LOST,
            _pod,
        ),
        Rule(
            "pod there",
            lambda at: at.pod_remains,
            Phase.TERMINATING,
            Reason.POD_TERMINATING,
            _said("the pod is being removed"),
        ),
        Rule(
            "workload there, or not asked yet",
            lambda at: at.workload_remains or not at.acted,
            Phase.TERMINATING,
            Reason.WORKLOAD_PENDING,
            _said("the workload is being removed"),
        ),
        Rule(
            "volume kept",
            lambda at: at.sandbox.keep_volume and at.volume_remains,
            Phase.TERMINATED,
            Reason.VOLUME_KEPT,
            _said("removed; the disk is kept"),
        ),
        Rule(
            "volume there",
            lambda at: at.volume_remains,
            Phase.TERMINATING,
            Reason.VOLUME_TERMINATING,
            _said("the volume is being removed"),
        ),
        Rule("nothing left", lambda at: True, Phase.TERMINATED, Reason.DELETED, _said("removed with its disk")),
    ),
}


def decide(
    sandbox: Sandbox, observed: Observed | None, now: datetime, start_deadline: timedelta = DEFAULT_START_DEADLINE
) -> Decision:
    """What `sandbox` is and what to do, given what is observed. `None`: nobody has looked since the wish."""
    if observed is None:
        return _accepted(sandbox)
    at = Situation(sandbox, observed, now, start_deadline)
    rule = next(rule for rule in RULES[sandbox.desired] if rule.holds(at))
    phase = rule.phase or _towards_running(at)
    reason = rule.reason or _reason(rule, at)
    action = _action(at)
    wanted = {
        DesiredState.RUNNING: Phase.RUNNING,
        DesiredState.STOPPED: Phase.STOPPED,
        DesiredState.DELETED: Phase.TERMINATED,
    }
    waiting = sandbox.desired is DesiredState.RUNNING and phase not in (Phase.RUNNING, Phase.ERROR)
    return Decision(
        phase=phase,
        reason=reason,
        message=rule.message(at),
        action=action,
        settled=phase is wanted[sandbox.desired] and action is None,
        recheck_at=sandbox.status.attempt_at + start_deadline if waiting else None,
    )


def _reason(rule: Rule, at: Situation) -> Reason:
    if rule is FAULT and at.observed.fault:
        return at.observed.fault.reason
    if at.sandbox.desired is DesiredState.DELETED:
        return at.sandbox.status.reason
    if at.workload_fault and at.observed.workload and at.observed.workload.fault:
        return at.observed.workload.fault.reason
    return at.pod_reason


def _towards_running(at: Situation) -> Phase:
    reached, sandbox = at.sandbox.status.observed_generation, at.sandbox
    if sandbox.start_generation <= reached < sandbox.generation:
        return Phase.UPDATING
    if reached == 0 and at.observed.workload is None:
        return Phase.CREATING
    return Phase.STARTING


def _accepted(sandbox: Sandbox) -> Decision:
    status, said = sandbox.status, "accepted"
    if sandbox.desired is DesiredState.DELETED:
        phase = Phase.TERMINATED if status.phase is Phase.TERMINATED else Phase.TERMINATING
    elif sandbox.desired is DesiredState.STOPPED:
        phase = Phase.STOPPED if status.phase is Phase.STOPPED else Phase.STOPPING
    elif sandbox.start_generation <= status.observed_generation < sandbox.generation:
        phase = Phase.UPDATING
    else:
        phase = Phase.CREATING if status.observed_generation == 0 and status.applied_generation == 0 else Phase.STARTING
    return Decision(phase, Reason.ACCEPTED, said)


def _action(at: Situation) -> Action | None:
    sandbox, workload, volume = at.sandbox, at.observed.workload, at.observed.volume
    if sandbox.desired is DesiredState.DELETED:
        if sandbox.status.phase is Phase.TERMINATED:
            return None
        asked = (
            at.acted
            and (not at.workload_remains or (workload is not None and workload.terminating))
            and (sandbox.keep_volume or not at.volume_remains or (volume is not None and volume.terminating))
        )
        return None if asked else Delete(sandbox.keep_volume)
    if at.stranger:
        return None
    if sandbox.desired is DesiredState.RUNNING and at.volume_going:
        return None
    replicas = 1 if sandbox.desired is DesiredState.RUNNING and not at.volume_lost else 0
    stands = (
        workload is not None
        and not workload.terminating
        and workload.generation == sandbox.generation
        and workload.replicas == replicas
        and workload.revision == sandbox.status.applied_revision
        and at.acted
    )
    return None if stands else Apply(replicas)


def on_wish(sandbox: Sandbox, now: datetime) -> Sandbox:
    """`sandbox` with a changed wish, its phase decided before anybody has looked. `now` starts a new attempt."""
    decision = decide(sandbox, None, now)
    moved = decision.phase is not sandbox.status.phase
    status = dataclasses.replace(
        sandbox.status,
        phase=decision.phase,
        reason=decision.reason,
        message=decision.message,
        attempt_at=now,
        transitioned_at=now if moved else sandbox.status.transitioned_at,
    )
    return dataclasses.replace(sandbox, status=status)
