"""The next status of a sandbox: what `lifecycle.decide` said, and what is observed, told for callers."""

from dataclasses import replace
from datetime import datetime

from sandbox_server.domain import disruption, lifecycle, ownership
from sandbox_server.domain.observed import Observed, Pod, Volume
from sandbox_server.domain.phase import ConditionType, DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import Condition, Sandbox, VolumeStatus


def record(sandbox: Sandbox, observed: Observed, decision: lifecycle.Decision, now: datetime) -> Sandbox:
    """Returns `sandbox` with the status that follows, and its volume's uid once that is seen. Equal if nothing changed.

    Foreign objects of its name are not reported as its own. Where the namespace is unobservable, everything that was
    observed before stays in the status.
    """
    if observed.unobservable is not None:
        return replace(sandbox, status=lifecycle.with_decision(sandbox.status, decision, now))
    before, known = sandbox.status, sandbox.volume_uid
    pod = observed.pod if observed.pod and ownership.owned(sandbox, observed.pod) else None
    volume = observed.volume
    if volume and not ownership.is_disk(sandbox, volume):
        volume = None
    fell = before.phase is Phase.RUNNING and decision.phase is not Phase.RUNNING
    after = replace(
        lifecycle.with_decision(before, decision, now),
        observed_generation=sandbox.generation if decision.settled else before.observed_generation,
        conditions=_conditions(sandbox, pod, volume, decision, now),
        restart_count=pod.restart_count if pod else 0,
        last_exit=(pod.last_exit if pod else None) or before.last_exit,
        last_disruption=disruption.last(sandbox, observed, now),
        volume=VolumeStatus(volume.name, volume.size, volume.bound_and_kept) if volume else None,
    )
    new = disruption.is_new(sandbox, observed)
    row = disruption.in_a_row(sandbox, now) + new if fell or new else sandbox.disruptions
    disrupted = observed.disruption.pod if new and observed.disruption else sandbox.disrupted_pod
    attempt_at = now if fell else sandbox.attempt_at
    # Start with accept_data_loss gave up a claim that lost its volume, unless the volume has come back.
    stays = volume is not None and not volume.terminating and not volume.lost
    if volume and stays and (sandbox.desired is not DesiredState.DELETED or sandbox.keep_volume):
        known = volume.uid
    filled = sandbox.filled_generation or (sandbox.generation if decision.phase is Phase.RUNNING else 0)
    return replace(
        sandbox,
        status=after,
        attempt_at=attempt_at,
        volume_uid=known,
        filled_generation=filled,
        disruptions=row,
        disrupted_pod=disrupted,
    )


def _conditions(
    sandbox: Sandbox, pod: Pod | None, volume: Volume | None, decision: lifecycle.Decision, now: datetime
) -> tuple[Condition, ...]:
    """One of each type. What holds is READY; what does not has the reason of the pod, of the volume or of the phase."""
    # A pod that waits for its volume only knows that it has no node.
    why = pod.reason if pod and decision.reason is not Reason.VOLUME_BINDING else decision.reason
    ready = pod is not None and pod.counts(now)
    # A process that is between two tries, or ready for a moment only, has not recovered.
    if pod and (decision.reason.is_failed_run or (pod.ready and not ready)):
        why = decision.reason
    old = pod is not None and (pod.terminating or pod.generation != sandbox.generation)
    bound = volume is not None and volume.bound_and_kept
    told: tuple[tuple[ConditionType, bool | None, Reason], ...] = (
        (ConditionType.SCHEDULED, pod.scheduled if pod else False, why),
        (ConditionType.VOLUME_BOUND, bound, _volume_reason(sandbox, volume, decision)),
        (ConditionType.IMAGE_PULLED, pod.image_pulled if pod else None, why),
        (ConditionType.READY, ready, why),
        (ConditionType.ENV_APPLIED, ready and not old, Reason.ROLLING_OUT if old else why),
    )
    since = {(one.type, one.status): one.transition_time for one in sandbox.status.conditions}
    return tuple(
        Condition(type_, holds, Reason.READY if holds else reason, since.get((type_, holds), now))
        for type_, holds, reason in told
    )


def _volume_reason(sandbox: Sandbox, volume: Volume | None, decision: lifecycle.Decision) -> Reason:
    if sandbox.desired is DesiredState.DELETED:
        return decision.reason
    if sandbox.volume_uid and (volume is None or volume.lost):
        return Reason.VOLUME_LOST
    return Reason.VOLUME_TERMINATING if volume and volume.terminating else Reason.VOLUME_BINDING
