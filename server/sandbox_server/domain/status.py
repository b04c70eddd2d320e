"""The next status of a sandbox: the decision of `lifecycle.decide`, and what is observed, as callers see it."""

from dataclasses import replace
from datetime import datetime

from sandbox_server.domain import check, disruption, lifecycle, ownership
from sandbox_server.domain.observed import Growth, Observed, Pod, Volume
from sandbox_server.domain.phase import ConditionType, DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import Condition, Sandbox, VolumeStatus
from sandbox_server.domain.situation import TAKES_LONG

WORDS_MOST = 1024
"""Characters of the message of a condition."""
_DISK_REASONS = {True: Reason.DISK_FULL_SOON, False: Reason.READY, None: Reason.DISK_NOT_MEASURED}


def record(sandbox: Sandbox, observed: Observed, decision: lifecycle.Decision, now: datetime) -> Sandbox:
    """Returns `sandbox` with the status that follows, and its volume's uid once that is seen. Equal if nothing changed.

    Foreign objects of its name are not reported as its own. Where the namespace is unobservable, everything that was
    observed before stays in the status.
    """
    if observed.unobservable is not None:
        return replace(sandbox, status=lifecycle.with_decision(sandbox.status, decision, now))
    before = sandbox.status
    pod = observed.pod if observed.pod is not None and ownership.owned(sandbox, observed.pod) else None
    volume = observed.volume if observed.volume is not None and ownership.is_disk(sandbox, observed.volume) else None
    restored = before.reason in TAKES_LONG and decision.reason not in TAKES_LONG
    fell = before.phase is Phase.RUNNING and decision.phase is not Phase.RUNNING
    after = replace(
        lifecycle.with_decision(before, decision, now),
        observed_generation=sandbox.generation if decision.settled else before.observed_generation,
        conditions=(*_conditions(sandbox, pod, volume, decision, now), _disk_condition(sandbox, volume, observed, now)),
        restart_count=pod.restart_count if pod else 0,
        last_exit=(pod.last_exit if pod else None) or before.last_exit,
        last_disruption=disruption.last(sandbox, observed, now),
        volume=VolumeStatus(volume.name, volume.size, volume.bound_and_kept) if volume else None,
    )
    newly_disrupted = disruption.is_new(sandbox, observed)
    disruptions = sandbox.disruptions
    if fell or newly_disrupted:
        disruptions = disruption.in_a_row(sandbox, now) + newly_disrupted
    disrupted_pod = sandbox.disrupted_pod
    if newly_disrupted and observed.disruption is not None:
        disrupted_pod = observed.disruption.pod
    adopted, applied = sandbox.adopted, sandbox.applied_generation
    if adopted is not None and sandbox.moves and decision.settled and sandbox.desired is not DesiredState.DELETED:
        # The former pod is of no use any more: the objects are applied as those of other sandboxes, and it goes.
        adopted, applied = replace(adopted, moved=True), 0
    return replace(
        sandbox,
        status=after,
        adopted=adopted,
        applied_generation=applied,
        attempt_at=now if fell or restored else sandbox.attempt_at,
        volume_uid=_volume_uid(sandbox, volume),
        filled_generation=sandbox.filled_generation or (sandbox.generation if decision.phase is Phase.RUNNING else 0),
        disruptions=disruptions,
        disrupted_pod=disrupted_pod,
    )


def _volume_uid(sandbox: Sandbox, volume: Volume | None) -> str:
    """Returns the uid of the disk that the sandbox has from now on."""
    # Start with accept_data_loss gave up a claim that lost its volume, unless the volume has come back.
    if volume is None or volume.terminating or volume.lost:
        return sandbox.volume_uid
    stays = sandbox.desired is not DesiredState.DELETED or sandbox.keep_volume
    return volume.uid if stays else sandbox.volume_uid


def _conditions(
    sandbox: Sandbox, pod: Pod | None, volume: Volume | None, decision: lifecycle.Decision, now: datetime
) -> tuple[Condition, ...]:
    """Returns one condition of each type, but for that of `_disk_condition`.

    The reason of a condition that holds is READY. Any other has the reason of the pod, of the volume or of the phase.
    """
    # A pod that waits for its volume only knows that it has no node.
    reason = pod.reason if pod and decision.reason is not Reason.VOLUME_BINDING else decision.reason
    ready = pod is not None and pod.counts(now)
    # A process that is between two starts, or has been ready for a moment only, has not recovered.
    if pod and (decision.reason.is_failed_run or (pod.ready and not ready)):
        reason = decision.reason
    old = pod is not None and (pod.terminating or pod.generation != sandbox.pod_generation)
    bound = volume is not None and volume.bound_and_kept
    unbound = _volume_reason(sandbox, volume, decision)
    growth = _growth(sandbox, volume, unbound)
    resize = Growth(reason) if pod is None else Growth(Reason.ROLLING_OUT) if old else pod.resize
    found: tuple[tuple[ConditionType, bool | None, Reason], ...] = (
        (ConditionType.SCHEDULED, pod.scheduled if pod else False, reason),
        (ConditionType.VOLUME_BOUND, bound, unbound),
        (ConditionType.IMAGE_PULLED, pod.image_pulled if pod else None, reason),
        (ConditionType.READY, ready, reason),
        (ConditionType.ENV_APPLIED, ready and not old, Reason.ROLLING_OUT if old else reason),
        (ConditionType.VOLUME_SIZED, growth is None, Reason.READY if growth is None else growth.reason),
        (ConditionType.RESOURCES_APPLIED, resize is None, Reason.READY if resize is None else resize.reason),
    )
    said = {ConditionType.VOLUME_SIZED: growth, ConditionType.RESOURCES_APPLIED: resize}
    words = {type_: one.message[:WORDS_MOST] for type_, one in said.items() if one is not None}
    since = _since(sandbox)
    return tuple(
        Condition(type_, holds, Reason.READY if holds else cause, since.get((type_, holds), now), words.get(type_, ""))
        for type_, holds, cause in found
    )


def _growth(sandbox: Sandbox, volume: Volume | None, unbound: Reason) -> Growth | None:
    """Returns where the growth of the disk stands; None if the disk is as large as the sandbox asks.

    `unbound` is why there is no bound volume, if there is none.
    """
    if volume is None or not volume.bound_and_kept:
        return Growth(unbound)
    if check.amount(volume.size) >= check.amount(sandbox.spec.storage.size):
        return None
    return volume.growth or Growth(Reason.VOLUME_EXPANDING)


def _disk_condition(sandbox: Sandbox, volume: Volume | None, observed: Observed, now: datetime) -> Condition:
    """Returns the condition that is well where it does not hold."""
    type_ = ConditionType.DISK_NEARLY_FULL
    holds = observed.nearly_full if volume is not None and not volume.lost else None
    return Condition(type_, holds, _DISK_REASONS[holds], _since(sandbox).get((type_, holds), now))


def _since(sandbox: Sandbox) -> dict[tuple[ConditionType, bool | None], datetime]:
    """Returns since when each condition has its status."""
    return {(one.type, one.status): one.transition_time for one in sandbox.status.conditions}


def _volume_reason(sandbox: Sandbox, volume: Volume | None, decision: lifecycle.Decision) -> Reason:
    if sandbox.desired is DesiredState.DELETED:
        return decision.reason
    if sandbox.volume_uid and (volume is None or volume.lost):
        return Reason.VOLUME_LOST
    return Reason.VOLUME_TERMINATING if volume and volume.terminating else Reason.VOLUME_BINDING
