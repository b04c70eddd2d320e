"""The life of a sandbox: every phase is decided here and nowhere else.

`decide` is pure and level-triggered. It reads three tables of rules, one per desired state, top down; the first rule
that finds something gives phase, reason and message. What to do follows separately, from where the engine stands and
where it should.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sandbox_server.domain.observed import Fault, Observed
from sandbox_server.domain.phase import ConditionType, DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import Condition, Sandbox, Status
from sandbox_server.domain.situation import CONTROLLER_GUARD, ROLLOUT_GUARD, Situation

DEFAULT_START_DEADLINE = timedelta(minutes=10)
"""How long an attempt to run may take before it is called failed: a cold pull of a 2 GB image fits twice."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Make the engine's objects for the present generation, with so many replicas."""

    replicas: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove the engine's objects; the volume too, unless the sandbox keeps it.

    `unattended`: the workload's controller does not act, so that there is no waiting for it.
    """

    unattended: bool = False


Action = Apply | Delete


@dataclass(frozen=True, slots=True)
class Decision:
    """What the sandbox's phase is, why, and what to do about it.

    `settled` says that the generation is reached: desired phase, nothing left to do. `awaits_pod` says that nothing is
    left to do but for the workload's controller, which has made no pod. `recheck_at` is when time alone may change the
    decision.
    """

    phase: Phase
    reason: Reason
    message: str
    action: Action | None = None
    settled: bool = False
    awaits_pod: bool = False
    recheck_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One row, which holds where `finds` finds something.

    None for the phase is CREATING, STARTING or UPDATING, whichever is on the way to RUNNING; None for the reason is that
    of what was found. The message is a format of what was found.
    """

    when: str
    finds: Callable[[Situation], Any]
    phase: Phase | None = None
    reason: Reason | None = None
    message: str = "{.message}"


MESSAGE_MOST = 4096
"""Characters that are told of why: a webhook may answer with a megabyte, and each status is kept and sent again and again."""

NEWS = timedelta(seconds=1)
"""How long the end of a pod is the reason at least, where its successor is there before the end was seen."""

D, P, R, S = DesiredState, Phase, Reason, Situation
_STRANGER = "a {} of this name belongs to somebody else; it is left alone. Remove it or choose another id"
_LOST = "the disk was lost, removed or replaced; Start with accept_data_loss begins on an empty one"
_KEPT_LOST = "removed; the claim is kept, but the volume that it was bound to no longer exists"
_UNATTENDED = (
    "waiting for the cluster's StatefulSet controller, which has not acted on the workload: the controller manager is down, "
    "or something denies what it writes, such as ControllerRevisions"
)
ACCEPTED = "accepted"
_ENDS = "waits for the process to end, at most {}"
_UNTRIED = "the process runs; it counts as ready when it has done so for a while"
_GOING = "the disk is being removed and goes with the pod: save your work now"

CONFLICT = Rule("an object of our name is not ours", S.stranger, P.ERROR, R.NAME_CONFLICT, _STRANGER)
NAMESPACE = Rule("the namespace is being removed or gone", S.namespace_ends, P.ERROR)
LOST = Rule("the volume is gone or replaced", S.volume_lost, P.ERROR, R.VOLUME_LOST, _LOST)
REFUSED = Rule("the engine refused the last act", S.refused, P.ERROR)

RULES: dict[DesiredState, tuple[Rule, ...]] = {
    D.RUNNING: (
        NAMESPACE,
        CONFLICT,
        LOST,
        Rule("pod ready, volume being removed", S.pod_doomed, P.RUNNING, R.VOLUME_TERMINATING, _GOING),
        Rule("volume being removed", S.volume_going, P.ERROR, R.VOLUME_TERMINATING, _GOING),
        Rule("pod ready, our objects changed each time", S.ready_contested, P.RUNNING, R.FIELD_CONFLICT),
        Rule("pod of this generation ready", S.pod_ready, P.RUNNING, R.READY, "the pod is ready"),
        REFUSED,
        Rule("the pod's node does not answer", S.pod_lost, P.ERROR, R.NODE_LOST),
        Rule("the pod cannot be made", S.pod_impossible, P.ERROR),
        Rule("pod of this generation failing", S.pod_failing, P.ERROR),
        Rule("pod of this generation failed a moment ago", S.pod_failed_lately, P.ERROR),
        Rule("the cluster ends the pod again and again", S.pod_disrupted_often, P.ERROR),
        Rule("start deadline passed", S.overdue, P.ERROR, R.START_DEADLINE, "not ready within {}"),
        Rule("the cluster ended the pod", S.pod_disrupted),
        Rule("no workload", lambda at: not at.workload, None, R.WORKLOAD_PENDING, "the workload is being made"),
        Rule("volume not bound", S.volume_awaited, None, R.VOLUME_BINDING, "waiting for the volume"),
        Rule("no pod", lambda at: not at.pod, None, R.WORKLOAD_PENDING, "waiting for the pod"),
        Rule("pod of this generation ready for a moment only", S.pod_untried, None, R.NOT_READY, _UNTRIED),
        Rule("pod of this generation not ready", S.pod_starting),
        Rule(
            "pod of an older generation, or going", S.grace, None, R.ROLLING_OUT, f"the pod is being replaced: {_ENDS}"
        ),
    ),
    D.STOPPED: (
        NAMESPACE,
        CONFLICT,
        LOST,
        Rule("the engine cannot act now", S.busy, P.STOPPING, R.CLUSTER_BUSY),
        REFUSED,
        Rule("the pod's node does not answer", S.pod_lost, P.STOPPING, R.NODE_LOST),
        Rule("the controller has not acted", S.unattended, P.STOPPING, R.WORKLOAD_PENDING, _UNATTENDED),
        Rule("pod there", S.pod_grace, P.STOPPING, R.POD_TERMINATING, f"the pod is being removed: {_ENDS}"),
        Rule("no pod, and none will come", S.workload_idle, P.STOPPED, R.POD_GONE, "stopped; the disk is kept"),
        Rule("workload not scaled down", S.any, P.STOPPING, R.WORKLOAD_PENDING, "the workload is being scaled down"),
    ),
    D.DELETED: (
        Rule("the namespace is being removed", S.namespace_holds, P.TERMINATING),
        Rule("the engine cannot act now", S.busy, P.TERMINATING, R.CLUSTER_BUSY),
        REFUSED,
        Rule("the pod's node does not answer", S.pod_lost, P.TERMINATING, R.NODE_LOST),
        Rule("the controller has not acted", S.unattended, P.TERMINATING, R.WORKLOAD_PENDING, _UNATTENDED),
        Rule("pod there", S.pod_grace, P.TERMINATING, R.POD_TERMINATING, f"the pod is being removed: {_ENDS}"),
        Rule("workload not removed", S.undeleted, P.TERMINATING, R.WORKLOAD_PENDING, "the workload is being removed"),
        Rule("claim kept, volume lost", S.volume_kept_lost, P.TERMINATED, R.VOLUME_KEPT, _KEPT_LOST),
        Rule("volume kept", S.volume_kept, P.TERMINATED, R.VOLUME_KEPT, "removed; the disk is kept"),
        Rule("volume there", lambda at: at.volume, P.TERMINATING, R.VOLUME_TERMINATING, "the volume is being removed"),
        Rule("nothing left", S.any, P.TERMINATED, R.DELETED, "removed with its disk"),
    ),
}
SETTLED = {D.RUNNING: P.RUNNING, D.STOPPED: P.STOPPED, D.DELETED: P.TERMINATED}
"""The phase in which a sandbox is as it was wished."""


def decide(
    sandbox: Sandbox, observed: Observed, now: datetime, start_deadline: timedelta = DEFAULT_START_DEADLINE
) -> Decision:
    """What `sandbox` is and what to do, given what is observed."""
    at = Situation.of(sandbox, observed, now, start_deadline)
    rule, found = next((one, found) for one in RULES[sandbox.desired] if (found := one.finds(at)))
    phase, action = rule.phase or _towards_running(sandbox, made=at.workload is not None), _action(at)
    return Decision(
        phase=phase,
        reason=rule.reason or found.reason,
        message=rule.message.format(found),
        action=action,
        settled=phase is SETTLED[sandbox.desired] and action is None,
        awaits_pod=sandbox.desired is DesiredState.RUNNING and action is None and at.pod_missing(),
        recheck_at=_recheck_at(at, waits=rule.phase is None),
    )


def unexplained(sandbox: Sandbox, observed: Observed, now: datetime) -> bool:
    """Whether the end of the namespace may explain what is observed, so that the engine has to look at it."""
    return observed.namespace is not None or Situation.of(sandbox, observed, now, DEFAULT_START_DEADLINE).unexplained()


def _recheck_at(at: Situation, waits: bool) -> datetime | None:
    """When time alone may change the decision. `waits`: whether the start deadline is still to come."""
    times = [at.attempt_at + at.start_deadline] if waits else []
    if at.newly_disrupted():
        times.append(at.now + NEWS)
    pod = at.pod
    soon = (pod.ready_at if pod.ready else None, pod.recent_until) if pod else ()
    times += [one for one in soon if one is not None and one > at.now]
    guard_at = at.attempt_at + ROLLOUT_GUARD
    if at.sandbox.desired is DesiredState.RUNNING and at.pod_outdated() and at.now < guard_at:
        times.append(guard_at)
    seen_at, ends = at.attempt_at + CONTROLLER_GUARD, at.sandbox.desired is not DesiredState.RUNNING
    if ends and at.workload and not at.workload.obeyed and at.now < seen_at:
        times.append(seen_at)
    return min(times, default=None)


def _towards_running(sandbox: Sandbox, made: bool) -> Phase:
    reached = sandbox.status.observed_generation
    if sandbox.start_generation <= reached < sandbox.generation:
        return Phase.UPDATING
    return Phase.STARTING if made or reached else Phase.CREATING


def _accepted(sandbox: Sandbox) -> Phase:
    """The phase of a wish that nobody has looked at yet."""
    if sandbox.desired is DesiredState.RUNNING:
        return _towards_running(sandbox, made=sandbox.applied_generation != 0)
    if sandbox.desired is DesiredState.STOPPED:
        return Phase.STOPPED if sandbox.status.phase is Phase.STOPPED else Phase.STOPPING
    # Also of a sandbox that had ended with its volume kept: the volume is to go.
    return Phase.TERMINATING


def _action(at: Situation) -> Action | None:
    sandbox, workload = at.sandbox, at.workload
    if sandbox.desired is DesiredState.DELETED:
        left = (workload, None if sandbox.keep_volume else at.volume)
        asked = at.acted() and all(one is None or one.terminating for one in left)
        return None if asked else Delete(at.unattended())
    running = sandbox.desired is DesiredState.RUNNING
    if at.stranger() or (running and at.volume_going()):
        return None
    # A pod that the controller does not replace goes when its workload is scaled down; its successor is current.
    replicas = int(running and not at.volume_lost() and not at.rollout_stuck())
    applied = (sandbox.generation, replicas, sandbox.applied_revision, False)
    stands = workload and (workload.generation, workload.replicas, workload.revision, workload.terminating) == applied
    discarded = running and at.volume_discarded()
    return None if stands and at.acted() and not discarded else Apply(replicas)


def on_wish(sandbox: Sandbox, now: datetime) -> Sandbox:
    """`sandbox` with a changed wish, its phase decided before anybody has looked. `now` starts a new attempt."""
    conditions = tuple(_unapplied(one, now) for one in sandbox.status.conditions)
    decision = Decision(_accepted(sandbox), Reason.ACCEPTED, ACCEPTED)
    status = told(dataclasses.replace(sandbox.status, conditions=conditions), decision, now)
    return dataclasses.replace(sandbox, attempt_at=now, status=status)


def _unapplied(condition: Condition, now: datetime) -> Condition:
    """No pod has the environment of a generation that is new."""
    if condition.type is not ConditionType.ENV_APPLIED or not condition.status:
        return condition
    return dataclasses.replace(condition, status=False, reason=Reason.ACCEPTED, transition_time=now)


def on_blindness(sandbox: Sandbox, fault: Fault, now: datetime) -> Sandbox:
    """Returns `sandbox` with the fault for which its namespace is unobservable.

    A sandbox that has reached its generation is returned unchanged, unless its namespace is being removed.
    """
    ends = fault.reason is Reason.NAMESPACE_TERMINATING
    if sandbox.status.observed_generation == sandbox.generation and not ends:
        return sandbox
    going = {DesiredState.STOPPED: Phase.STOPPING, DesiredState.DELETED: Phase.TERMINATING}.get(sandbox.desired)
    waits = fault.reason is Reason.CLUSTER_BUSY or (ends and sandbox.desired is DesiredState.DELETED)
    decision = Decision(going if going and waits else Phase.ERROR, fault.reason, fault.message)
    return dataclasses.replace(sandbox, status=told(sandbox.status, decision, now))


def told(before: Status, decision: Decision, now: datetime) -> Status:
    """`before` with the phase that was decided, and why."""
    return dataclasses.replace(
        before,
        phase=decision.phase,
        reason=decision.reason,
        message=decision.message[:MESSAGE_MOST],
        transition_time=before.transition_time if decision.phase is before.phase else now,
    )
