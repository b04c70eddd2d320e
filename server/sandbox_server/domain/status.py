"""The next status of a sandbox: what `lifecycle.decide` said, and what is observed, told for callers."""

import dataclasses
from datetime import datetime

from sandbox_server.domain import lifecycle
from sandbox_server.domain.sandbox import (
    Condition,
    ConditionType,
    DesiredState,
    Observed,
    Phase,
    Reason,
    Sandbox,
    Status,
    VolumeStatus,
)


def record(sandbox: Sandbox, observed: Observed, decision: lifecycle.Decision, now: datetime) -> Sandbox:
    """`sandbox` with the status that follows, and its volume's uid once that is seen. Equal if nothing changed."""
    before = sandbox.status
    fell = before.phase is Phase.RUNNING and decision.phase is not Phase.RUNNING
    pod, volume = observed.pod, observed.volume
    after = Status(
        phase=decision.phase,
        reason=decision.reason,
        message=decision.message,
        transitioned_at=before.transitioned_at if decision.phase is before.phase else now,
        attempt_at=now if fell else before.attempt_at,
        observed_generation=sandbox.generation if decision.settled else before.observed_generation,
        conditions=_conditions(sandbox, observed, decision, now),
        restart_count=pod.restart_count if pod else 0,
        last_exit=(pod.last_exit if pod else None) or before.last_exit,
        volume=VolumeStatus(volume.name, volume.size, volume.bound and not volume.terminating) if volume else None,
        applied_generation=before.applied_generation,
        applied_revision=before.applied_revision,
    )
    return dataclasses.replace(sandbox, status=after, volume_uid=sandbox.volume_uid or _own_volume(sandbox, observed))


def _own_volume(sandbox: Sandbox, observed: Observed) -> str:
    volume = observed.volume
    ours = volume is not None and volume.owner == sandbox.uid and not volume.terminating
    return volume.uid if volume is not None and ours and sandbox.desired is not DesiredState.DELETED else ""


def _conditions(
    sandbox: Sandbox, observed: Observed, decision: lifecycle.Decision, now: datetime
) -> tuple[Condition, ...]:
    pod, volume = observed.pod, observed.volume
    current = pod is not None and pod.generation == sandbox.generation and not pod.terminating
    pulled = pod.image_pulled if pod else None
    scheduled = pod.scheduled if pod else False
    bound = volume is not None and volume.bound and not volume.terminating
    if sandbox.desired is DesiredState.DELETED:
        volume_reason = decision.reason
    elif volume is not None and volume.terminating:
        volume_reason = Reason.VOLUME_TERMINATING
    elif volume is None and sandbox.volume_uid:
        volume_reason = Reason.VOLUME_LOST
    else:
        volume_reason = Reason.READY if bound else Reason.VOLUME_BINDING
    why = pod.reason if pod else decision.reason
    ready = bool(pod and pod.ready)
    told: tuple[tuple[ConditionType, bool | None, Reason], ...] = (
        (ConditionType.SCHEDULED, scheduled, Reason.READY if scheduled else why),
        (ConditionType.VOLUME_BOUND, bound, volume_reason),
        (ConditionType.IMAGE_PULLED, pulled, Reason.READY if pulled else why),
        (ConditionType.READY, ready, Reason.READY if ready else why),
        (
            ConditionType.ENV_APPLIED,
            current and ready,
            Reason.READY if current and ready else Reason.ROLLING_OUT if pod and not current else why,
        ),
    )
    since = {one.type: one for one in sandbox.status.conditions}
    return tuple(
        Condition(type_, status, reason, _since(since.get(type_), status, now)) for type_, status, reason in told
    )


def _since(before: Condition | None, status: bool | None, now: datetime) -> datetime:
    return before.changed_at if before and before.status is status else now
