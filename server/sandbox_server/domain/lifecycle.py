"""The life of a sandbox: `decide` says what it is and what to do about it.

`decide` is pure and level-triggered. Phase, reason and message come from the tables in `rules.py`. What to do follows
separately, from where the engine stands and where it should.
"""

import dataclasses
from dataclasses import dataclass
from datetime import datetime, timedelta

from sandbox_server.domain import rules
from sandbox_server.domain.observed import Fault, Observed
from sandbox_server.domain.phase import ConditionType, DesiredState, Phase, Reason
from sandbox_server.domain.rules import Relative
from sandbox_server.domain.sandbox import Condition, Sandbox, Status
from sandbox_server.domain.situation import CONTROLLER_GUARD, Situation

DEFAULT_START_DEADLINE = timedelta(minutes=10)
"""How long an attempt to run may take before it is called failed: a cold pull of a 2 GB image fits twice."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Make the engine's objects for the present generation, with so many replicas."""

    replicas: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove the engine's objects; the volume too, unless the sandbox keeps it."""


@dataclass(frozen=True, slots=True)
class RemoveWorkload:
    """Remove the workload alone, and its pod before it: the workload's controller does not act, and others remove both."""


Action = Apply | Delete | RemoveWorkload


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


MESSAGE_MOST = 4096
"""Characters that are told of why: a webhook may answer with a megabyte, and each status is kept and sent again and again."""

NEWS = timedelta(seconds=1)
"""How long the end of a pod is the reason at least, where its successor is there before the end was seen."""

ACCEPTED = "accepted"


def decide(
    sandbox: Sandbox, observed: Observed, now: datetime, start_deadline: timedelta = DEFAULT_START_DEADLINE
) -> Decision:
    """Returns what `sandbox` is and what to do about it, given what is observed."""
    at = Situation.of(sandbox, observed, now, start_deadline)
    rule, finding = rules.first(at)
    waits = rule.phase is Relative.TOWARDS_RUNNING
    phase = rule.phase if isinstance(rule.phase, Phase) else _towards_running(sandbox, made=at.workload is not None)
    action = _action(at)
    return Decision(
        phase=phase,
        reason=finding.reason,
        message=finding.message,
        action=action,
        settled=phase is rules.SETTLED[sandbox.desired] and action is None,
        awaits_pod=sandbox.desired is DesiredState.RUNNING and action is None and at.pod_missing(),
        recheck_at=_recheck_at(at, waits),
    )


def unexplained(sandbox: Sandbox, observed: Observed, now: datetime) -> bool:
    """Whether the end of the namespace may explain what is observed, so that the engine has to look at it."""
    return observed.namespace is not None or Situation.of(sandbox, observed, now, DEFAULT_START_DEADLINE).unexplained()


def _recheck_at(at: Situation, waits: bool) -> datetime | None:
    """When time alone may change the decision. `waits`: whether the start deadline is still to come."""
    pod = at.pod
    times: list[datetime | None] = []
    if waits:
        times.append(at.attempt_at + at.start_deadline)
    if at.newly_disrupted():
        times.append(at.now + NEWS)
    if pod is not None:
        times.append(pod.recent_until)
        times.append(pod.ready_at if pod.ready else None)
    if at.workload is not None and at.workload.ignored_since is not None:
        times.append(at.workload.ignored_since + CONTROLLER_GUARD)
    return min((time for time in times if time is not None and time > at.now), default=None)


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
    if at.sandbox.desired is DesiredState.DELETED:
        return _removal(at)
    runs = at.sandbox.desired is DesiredState.RUNNING
    if at.foreign_kind() is not None or (runs and at.volume_going()):
        return None
    if not runs and at.applied_current_generation() and at.workload is not None and at.workload.terminating:
        # It is made again when it is gone, with no replicas from the first.
        return None
    # A pod that the controller does not replace goes when its workload is scaled down; its successor is current.
    replicas = 1 if runs and not at.volume_lost() and not at.rollout_stuck() else 0
    if not _stands(at, replicas) or (runs and at.volume_discarded()):
        return Apply(replicas)
    return RemoveWorkload() if not runs and at.unattended() else None


def _removal(at: Situation) -> Delete | RemoveWorkload | None:
    if not at.applied_current_generation():
        return Delete()
    workload, volume = at.workload, None if at.sandbox.keep_volume else at.volume
    if all(one is None or one.terminating for one in (workload, volume)):
        return None
    leaves = workload is not None and not workload.terminating and at.unattended()
    return RemoveWorkload() if leaves else Delete()


def _stands(at: Situation, replicas: int) -> bool:
    """Whether the workload is as the act of this generation left it, with so many replicas."""
    workload = at.workload
    if workload is None or workload.terminating or not at.applied_current_generation():
        return False
    current = workload.generation == at.sandbox.generation and workload.revision == at.sandbox.applied_revision
    return current and workload.replicas == replicas


def on_wish(sandbox: Sandbox, now: datetime) -> Sandbox:
    """`sandbox` with a changed wish, its phase decided before anybody has looked. `now` starts a new attempt."""
    conditions = tuple(_unapplied(one, now) for one in sandbox.status.conditions)
    decision = Decision(_accepted(sandbox), Reason.ACCEPTED, ACCEPTED)
    status = with_decision(dataclasses.replace(sandbox.status, conditions=conditions), decision, now)
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
    return dataclasses.replace(sandbox, status=with_decision(sandbox.status, decision, now))


def with_decision(before: Status, decision: Decision, now: datetime) -> Status:
    """Returns `before` with the phase that was decided, and why."""
    return dataclasses.replace(
        before,
        phase=decision.phase,
        reason=decision.reason,
        message=decision.message[:MESSAGE_MOST],
        transition_time=before.transition_time if decision.phase is before.phase else now,
    )
