"""The life of a sandbox: `decide` says what it is and what to do about it.

`decide` is pure and level-triggered. Phase, reason and message come from the tables in `rules.py`. What to do follows
separately, from where the engine stands and where it should.
"""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sandbox_server.domain import check, rules
from sandbox_server.domain.observed import Fault, Observed
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import ConditionType, DesiredState, Phase, Reason
from sandbox_server.domain.rules import Relative
from sandbox_server.domain.sandbox import Condition, Sandbox, Status
from sandbox_server.domain.situation import Situation

PACE = Pace()
"""The pace of a decision that depends on no setting."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Make the engine's objects for the present generation, with so many replicas."""

    replicas: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove the engine's objects; the volume too, unless the sandbox keeps it."""


@dataclass(frozen=True, slots=True)
class RemoveWorkload:
    """Remove the workload alone, and its pod before it, without the workload's controller, which does not act."""


Action = Apply | Delete | RemoveWorkload


@dataclass(frozen=True, slots=True)
class Decision:
    """The phase of a sandbox, its cause, and what to do.

    `settled`: the generation is reached, so that the phase is the desired one and nothing is left to do. `awaits_pod`: the
    service has nothing left to do, and the workload's controller has made no pod yet. `recheck_at` is when time alone may
    change the decision.
    """

    phase: Phase
    reason: Reason
    message: str
    action: Action | None = None
    settled: bool = False
    awaits_pod: bool = False
    recheck_at: datetime | None = None


MESSAGE_MOST = 4096
"""Characters of a message: a webhook may answer with a megabyte, and each status is stored and sent many times."""


def decide(
    sandbox: Sandbox, observed: Observed | None, now: datetime, pace: Pace = PACE, refusal: Fault | None = None
) -> Decision:
    """Returns what `sandbox` is and what to do about it.

    `observed` is None for a mutation that was just accepted. `refusal` says why the engine refused the last act for this
    generation; it counts for as long as there is something to do.
    """
    at = Situation.of(sandbox, observed, now, pace, refusal)
    action = _action(at) if at.seen else None
    if action is None and refusal is not None:
        at = Situation.of(sandbox, observed, now, pace)
    rule, finding = rules.first(at)
    phase = _phase(rule, at)
    settled = at.seen and action is None and phase is rules.SETTLED[sandbox.desired]
    # What it has moved from goes in the pass after the one that records this.
    recheck_at = now if settled and sandbox.moves else _recheck_at(at, waits=rule.phase is Relative.TOWARDS_RUNNING)
    return Decision(
        phase=phase,
        reason=finding.reason,
        message=finding.message,
        action=action,
        settled=settled,
        awaits_pod=sandbox.desired is DesiredState.RUNNING and action is None and at.pod_missing(),
        recheck_at=recheck_at,
    )


def unexplained(sandbox: Sandbox, observed: Observed, now: datetime, refusal: Fault | None = None) -> bool:
    """Whether the end of the namespace may explain what is observed or refused, so that the engine has to look at it."""
    at = Situation.of(sandbox, observed, now, PACE, refusal)
    return observed.namespace is not None or at.unexplained()


def _recheck_at(at: Situation, waits: bool) -> datetime | None:
    """When time alone may change the decision. `waits`: whether the start deadline is still to come."""
    pod = at.pod
    times: list[datetime | None] = []
    if waits:
        times.append(at.start_deadline_at)
    if at.newly_disrupted():
        times.append(at.now + timedelta(seconds=at.pace.disruption_shown))
    if pod is not None:
        times.append(pod.recent_until)
        times.append(pod.ready_at if pod.ready else None)
    if at.workload is not None:
        times.append(at.workload.ignored_at)
    return min((time for time in times if time is not None and time > at.now), default=None)


def _phase(rule: rules.Rule, at: Situation) -> Phase:
    if isinstance(rule.phase, Phase):
        return rule.phase
    if rule.phase is Relative.UNCHANGED:
        return at.sandbox.status.phase
    reached = at.sandbox.status.observed_generation
    if at.sandbox.start_generation <= reached < at.sandbox.generation:
        return Phase.UPDATING
    made = at.workload is not None or (at.accepted and at.sandbox.applied_generation != 0)
    return Phase.STARTING if made or reached else Phase.CREATING


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
    # Nothing runs on a disk to which the files of a former pod are still being copied.
    filled = at.move is None or at.move.copied
    has_disk = filled and not at.volume_lost() and not at.volume_misled()
    replicas = 1 if runs and has_disk and not at.rollout_stuck() else 0
    if not _stands(at, replicas) or (runs and at.volume_discarded()):
        return Apply(replicas)
    if at.volume_to_resize() or (replicas and at.pod_to_resize()):
        return Apply(replicas)
    if at.move is not None and at.move.due:
        return Apply(replicas)
    return RemoveWorkload() if not runs and at.unattended() else None


def _removal(at: Situation) -> Action | None:
    if at.sandbox.last_snapshot is not None:
        return _rest(at)
    if not at.applied_current_generation():
        return Delete()
    workload, volume = at.workload, None if at.sandbox.keep_volume else at.volume
    if all(one is None or one.terminating for one in (workload, volume)):
        return None
    leaves = workload is not None and not workload.terminating and at.unattended()
    return RemoveWorkload() if leaves else Delete()


def _rest(at: Situation) -> Action | None:
    """Nothing is to run, and everything stays until the snapshot of the disk is taken."""
    workload = at.workload
    if workload is None or workload.terminating:
        return None
    if not _stands(at, 0):
        return Apply(0)
    return RemoveWorkload() if at.unattended() else None


def _stands(at: Situation, replicas: int) -> bool:
    """Whether the workload is as the act of this generation left it, with so many replicas."""
    workload = at.workload
    if workload is None or workload.terminating or not at.applied_current_generation():
        return False
    current = workload.generation == at.sandbox.generation and workload.revision == at.sandbox.applied_revision
    return current and workload.replicas == replicas


def on_mutation(sandbox: Sandbox, now: datetime) -> Sandbox:
    """Returns `sandbox`, which a mutation has changed, with the phase that it has until it is observed.

    `now` starts a new attempt to run.
    """
    unmet = []
    if sandbox.pod_generation == sandbox.generation:
        # No pod has the environment of a generation that is new.
        unmet += [ConditionType.ENV_APPLIED, ConditionType.RESOURCES_APPLIED]
    if sandbox.resized_from is not None:
        unmet.append(ConditionType.RESOURCES_APPLIED)
    volume = sandbox.status.volume
    if volume is not None and check.amount(volume.size) < check.amount(sandbox.spec.storage.size):
        unmet.append(ConditionType.VOLUME_SIZED)
    conditions = _unmet(sandbox.status.conditions, unmet, now)
    status = dataclasses.replace(sandbox.status, conditions=conditions)
    decision = decide(sandbox, None, now)
    return dataclasses.replace(sandbox, attempt_at=now, status=with_decision(status, decision, now))


def replacing(sandbox: Sandbox, observed: Observed) -> Sandbox:
    """Returns `sandbox`; where its pod cannot be given other resources, as it makes another pod."""
    pod = observed.pod
    if pod is None or not pod.unresizable or sandbox.resized_from is None:
        return sandbox
    return dataclasses.replace(sandbox, template=None, applied_generation=0)


def _unmet(conditions: tuple[Condition, ...], types: Collection[ConditionType], now: datetime) -> tuple[Condition, ...]:
    """Returns `conditions`, those of `types` as they are while nothing of the generation has been observed."""
    return tuple(
        dataclasses.replace(one, status=False, reason=Reason.ACCEPTED, transition_time=now, message="")
        if one.type in types and one.status
        else one
        for one in conditions
    )


def with_decision(before: Status, decision: Decision, now: datetime) -> Status:
    """Returns `before` with the phase that was decided, and why."""
    return dataclasses.replace(
        before,
        phase=decision.phase,
        reason=decision.reason,
        message=decision.message[:MESSAGE_MOST],
        transition_time=before.transition_time if decision.phase is before.phase else now,
    )
