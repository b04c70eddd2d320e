"""The tables of the lifecycle: every phase is decided here and nowhere else.

There is one table for each desired state, read top down. The first rule that finds something decides.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass

from sandbox_server.domain import findings
from sandbox_server.domain.findings import Finding
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.domain.situation import Situation


class Relative(enum.Enum):
    """A phase that depends on the sandbox. The value is how the README says it."""

    TOWARDS_RUNNING = "CREATING, STARTING or UPDATING"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of a table, which holds where `finds` returns a finding.

    `reason` is that of every finding of the rule; None: it is the reason of what is observed.
    """

    when: str
    finds: Callable[[Situation], Finding | None]
    phase: Phase | Relative
    reason: Reason | None = None


TOWARDS_RUNNING = Relative.TOWARDS_RUNNING
_UNOBSERVABLE = "the namespace cannot be observed"

UNOBSERVABLE_SETTLED = Rule(f"{_UNOBSERVABLE}, generation reached", findings.unobservable_settled, Relative.UNCHANGED)
UNOBSERVABLE = Rule(_UNOBSERVABLE, findings.unobservable, Phase.ERROR)
NAMESPACE = Rule("the namespace is being removed or gone", findings.namespace_ends, Phase.ERROR)
CONFLICT = Rule("an object of our name is not ours", findings.foreign_object, Phase.ERROR, Reason.NAME_CONFLICT)
LOST = Rule("the volume is gone or replaced", findings.volume_lost, Phase.ERROR, Reason.VOLUME_LOST)
REFUSED = Rule("the engine refused the last act", findings.refused, Phase.ERROR)
NOT_MOVED = Rule(
    "the files of a former pod cannot be copied", findings.home_not_moved, Phase.ERROR, Reason.HOME_NOT_MOVED
)


def _moving(phase: Phase | Relative) -> Rule:
    return Rule("the files of a former pod being moved", findings.home_moving, phase, Reason.HOME_MOVING)


def _unobservable_now(phase: Phase) -> Rule:
    return Rule(f"{_UNOBSERVABLE} now", findings.unobservable_busy, phase, Reason.CLUSTER_BUSY)


def _accepted(phase: Phase | Relative) -> Rule:
    return Rule("a mutation was just accepted", findings.accepted, phase, Reason.ACCEPTED)


def _pod_ends(phase: Phase) -> tuple[Rule, ...]:
    """The rules of a sandbox that is to have no pod, as far as there is one or nothing can be done about it."""
    return (
        Rule("the engine cannot act now", findings.busy, phase, Reason.CLUSTER_BUSY),
        REFUSED,
        Rule("the pod's node does not answer", findings.node_lost, phase, Reason.NODE_LOST),
        Rule("the controller has not acted", findings.controller_idle, phase, Reason.WORKLOAD_PENDING),
        Rule("pod there", findings.pod_removed, phase, Reason.POD_TERMINATING),
    )


RULES: dict[DesiredState, tuple[Rule, ...]] = {
    DesiredState.RUNNING: (
        _accepted(TOWARDS_RUNNING),
        UNOBSERVABLE_SETTLED,
        UNOBSERVABLE,
        NAMESPACE,
        CONFLICT,
        LOST,
        Rule("volume not made from its origin", findings.volume_misled, Phase.ERROR, Reason.RESTORE_FAILED),
        Rule(
            "pod ready, the former pod cannot be let go", findings.home_not_released, Phase.ERROR, Reason.HOME_NOT_MOVED
        ),
        Rule("pod ready, the former pod not let go", findings.home_released, TOWARDS_RUNNING, Reason.HOME_MOVING),
        Rule(
            "pod ready, volume being removed", findings.ready_on_doomed_volume, Phase.RUNNING, Reason.VOLUME_TERMINATING
        ),
        Rule("volume being removed", findings.volume_going, Phase.ERROR, Reason.VOLUME_TERMINATING),
        Rule(
            "pod ready, our objects changed each time", findings.ready_contested, Phase.RUNNING, Reason.FIELD_CONFLICT
        ),
        Rule("pod of this generation ready", findings.pod_ready, Phase.RUNNING, Reason.READY),
        REFUSED,
        NOT_MOVED,
        _moving(TOWARDS_RUNNING),
        Rule("the pod's node does not answer", findings.node_lost, Phase.ERROR, Reason.NODE_LOST),
        Rule("the pod cannot be made", findings.pod_impossible, Phase.ERROR),
        Rule("pod of this generation failing", findings.pod_failing, Phase.ERROR),
        Rule("pod of this generation failed a moment ago", findings.pod_failed_lately, Phase.ERROR),
        Rule("the cluster ends the pod again and again", findings.pod_disrupted_often, Phase.ERROR),
        Rule("volume being made from another", findings.volume_restoring, TOWARDS_RUNNING, Reason.VOLUME_RESTORING),
        Rule("start deadline passed", findings.start_overdue, Phase.ERROR, Reason.START_DEADLINE),
        Rule("the cluster ended the pod", findings.pod_disrupted, TOWARDS_RUNNING),
        Rule("no workload", findings.workload_missing, TOWARDS_RUNNING, Reason.WORKLOAD_PENDING),
        Rule("volume not bound", findings.volume_awaited, TOWARDS_RUNNING, Reason.VOLUME_BINDING),
        Rule("no pod", findings.pod_missing, TOWARDS_RUNNING, Reason.WORKLOAD_PENDING),
        Rule("pod of this generation ready for a moment only", findings.pod_untried, TOWARDS_RUNNING, Reason.NOT_READY),
        Rule("pod of this generation not ready", findings.pod_starting, TOWARDS_RUNNING),
        Rule("pod of an older generation, or going", findings.pod_replaced, TOWARDS_RUNNING, Reason.ROLLING_OUT),
    ),
    DesiredState.STOPPED: (
        Rule("a mutation was accepted while STOPPED", findings.accepted_while_stopped, Phase.STOPPED, Reason.ACCEPTED),
        _accepted(Phase.STOPPING),
        UNOBSERVABLE_SETTLED,
        _unobservable_now(Phase.STOPPING),
        UNOBSERVABLE,
        NAMESPACE,
        CONFLICT,
        LOST,
        *_pod_ends(Phase.STOPPING),
        NOT_MOVED,
        _moving(Phase.STOPPING),
        Rule("no pod, and none will come", findings.workload_idle, Phase.STOPPED, Reason.POD_GONE),
        Rule("workload not scaled down", findings.workload_active, Phase.STOPPING, Reason.WORKLOAD_PENDING),
    ),
    DesiredState.DELETED: (
        # Also of a sandbox that had ended with its volume kept: the volume is to go.
        _accepted(Phase.TERMINATING),
        Rule(
            f"{_UNOBSERVABLE}, being removed",
            findings.unobservable_ending,
            Phase.TERMINATING,
            Reason.NAMESPACE_TERMINATING,
        ),
        _unobservable_now(Phase.TERMINATING),
        UNOBSERVABLE,
        Rule("the namespace is being removed", findings.namespace_holds, Phase.TERMINATING),
        *_pod_ends(Phase.TERMINATING),
        Rule("a snapshot is taken first", findings.snapshot_awaited, Phase.TERMINATING, Reason.LAST_SNAPSHOT),
        Rule("workload not removed", findings.deletion_pending, Phase.TERMINATING, Reason.WORKLOAD_PENDING),
        Rule("claim kept, volume lost", findings.volume_kept_lost, Phase.TERMINATED, Reason.VOLUME_KEPT),
        Rule("volume kept", findings.volume_kept, Phase.TERMINATED, Reason.VOLUME_KEPT),
        Rule("volume there", findings.volume_left, Phase.TERMINATING, Reason.VOLUME_TERMINATING),
        Rule("given back to a former system", findings.given_back, Phase.TERMINATED, Reason.GIVEN_BACK),
        Rule("nothing left", findings.nothing_left, Phase.TERMINATED, Reason.DELETED),
    ),
}
SETTLED = {
    DesiredState.RUNNING: Phase.RUNNING,
    DesiredState.STOPPED: Phase.STOPPED,
    DesiredState.DELETED: Phase.TERMINATED,
}
"""The phase in which a sandbox is as it was asked to be."""


def first(at: Situation) -> tuple[Rule, Finding]:
    """Returns the first rule that finds something, and what it finds. The last rule of each table always does."""
    for rule in RULES[at.sandbox.desired]:
        finding = rule.finds(at)
        if finding is not None:
            return rule, finding
    raise AssertionError("the last rule of a table finds something in every situation")
