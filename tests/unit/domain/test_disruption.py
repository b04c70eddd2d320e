"""The ends of whole pods: what is said while the pod is replaced, how they are counted, and when they are an error."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sandbox_server.domain import disruption, lifecycle, status
from sandbox_server.domain.observed import Disruption, Observed, Pod, Volume, Workload
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import DisruptionStatus, Sandbox

from tests.support import samples

UID, DISK = "the-sandbox", "the-disk"
WORDS = "Evicted: The node was low on resource: memory."
WORKLOAD = Workload(owner=UID, generation=1, replicas=1, revision=5)
VOLUME = Volume(owner=UID, uid=DISK, name="v", size="5Gi", bound=True)

pytestmark = [pytest.mark.find(10), pytest.mark.fault(62)]


def running() -> Sandbox:
    return samples.sandbox(
        uid=UID,
        volume_uid=DISK,
        applied_generation=1,
        applied_revision=5,
        status=samples.status(phase=Phase.RUNNING, reason=Reason.READY, observed_generation=1),
    )


def pod(ended: Disruption | None = None, **changes: object) -> Pod:
    usual = {"owner": UID, "generation": 1, "ready": ended is None, "reason": Reason.READY, "disruption": ended}
    if ended:
        usual |= {"reason": ended.reason, "message": ended.message}
    return Pod(**{**usual, **changes})  # type: ignore[arg-type]


def evicted(number: int, reason: Reason = Reason.EVICTED) -> Disruption:
    return Disruption(f"pod-{number}", reason, WORDS)


def seen(shown: Pod | None, ended: Disruption | None = None, volume: Volume | None = VOLUME) -> Observed:
    return Observed(workload=WORKLOAD, pod=shown, volume=volume, disruption=ended)


def after(sandbox: Sandbox, observed: Observed, now: datetime) -> Sandbox:
    return status.record(sandbox, observed, lifecycle.decide(sandbox, observed, now), now)


def last(sandbox: Sandbox) -> DisruptionStatus:
    assert sandbox.status.last_disruption is not None
    return sandbox.status.last_disruption


@pytest.mark.parametrize("reason", [one for one in Reason if one.is_disruption])
@pytest.mark.parametrize("terminating", [False, True])
def test_end_of_a_pod_is_reported_with_what_was_kept_until_there_is_another(reason: Reason, terminating: bool) -> None:
    ended = evicted(1, reason)
    told = after(running(), seen(pod(ended, terminating=terminating), ended), samples.NOW)
    assert (told.status.phase, told.status.reason) == (Phase.STARTING, reason)
    assert told.status.message == f"{WORDS}; the disk is kept; the pod is being replaced"
    assert last(told) == DisruptionStatus(reason, f"{WORDS}; the disk is kept", samples.NOW, 1)
    gone = after(told, seen(None, ended), samples.NOW + timedelta(seconds=1))
    assert (gone.status.phase, gone.status.reason, gone.status.message) == (
        told.status.phase,
        told.status.reason,
        told.status.message,
    )
    assert last(gone) == last(told)
    fresh = pod(ready=False, reason=Reason.SCHEDULING)
    assert after(gone, seen(fresh, ended), samples.NOW).status.reason is Reason.SCHEDULING
    back = after(gone, seen(pod(), ended), samples.NOW)
    assert (back.status.phase, last(back)) == (Phase.RUNNING, last(told))


def test_end_that_was_over_before_it_was_seen_is_recorded() -> None:
    told = after(running(), seen(pod(), evicted(1)), samples.NOW)
    assert (told.status.phase, last(told).count) == (Phase.RUNNING, 1)


def test_end_that_is_seen_with_the_successor_is_the_reason_until_the_next_look() -> None:
    successor = pod(ready=False, reason=Reason.SCHEDULING)
    first = lifecycle.decide(running(), seen(successor, evicted(1)), samples.NOW)
    assert (first.phase, first.reason, first.recheck_at) == (
        Phase.STARTING,
        Reason.EVICTED,
        samples.NOW + timedelta(seconds=Pace.disruption_shown),
    )
    told = after(running(), seen(successor, evicted(1)), samples.NOW)
    assert after(told, seen(successor, evicted(1)), samples.NOW).status.reason is Reason.SCHEDULING


def test_one_end_counts_once_however_often_it_is_seen_and_has_its_latest_words() -> None:
    first = evicted(1)
    final = replace(first, reason=Reason.NODE_SHUTDOWN, message="Terminated: words")
    told = after(running(), seen(pod(first), first), samples.NOW)
    told = after(told, seen(pod(final), final), samples.NOW + timedelta(seconds=1))
    assert last(told) == DisruptionStatus(Reason.NODE_SHUTDOWN, "Terminated: words; the disk is kept", samples.NOW, 1)


def test_pod_that_is_ended_again_and_again_is_an_error_until_a_pod_is_ready() -> None:
    sandbox, now, phases = running(), samples.NOW, []
    for number in range(4):
        ended = evicted(number)
        now += timedelta(minutes=1)
        sandbox = after(sandbox, seen(pod(ended), ended), now)
        phases.append(sandbox.status.phase)
        assert last(sandbox).count == number + 1
        for waits in (None, pod(ready=False, reason=Reason.SCHEDULING), pod(ready=False, reason=Reason.NOT_READY)):
            sandbox = after(sandbox, seen(waits, ended), now)
        phases.append(sandbox.status.phase)
    assert phases == [Phase.STARTING] * 4 + [Phase.ERROR] * 4
    assert sandbox.status.reason is Reason.EVICTED
    assert "4 times in a row" in sandbox.status.message
    broken = pod(ready=False, reason=Reason.CRASH_LOOP)
    assert after(sandbox, seen(broken, evicted(3)), now).status.reason is Reason.CRASH_LOOP
    back = after(sandbox, seen(pod(), evicted(3)), now)
    assert back.status.phase is Phase.RUNNING
    fallen = after(back, seen(pod(ready=False, reason=Reason.RESTARTING), evicted(3)), now)
    assert (fallen.status.phase, fallen.status.reason) == (Phase.STARTING, Reason.RESTARTING)
    ended = evicted(4)
    again = after(back, seen(pod(ended), ended), now + timedelta(minutes=1))
    assert (again.status.phase, last(again).count) == (Phase.ERROR, 5)


@pytest.mark.parametrize("other_cause_first", [False, True])
def test_row_begins_anew_after_ten_minutes_of_running(other_cause_first: bool) -> None:
    sandbox = replace(running(), disruptions=5, disrupted_pod="pod-0")
    sandbox = replace(
        sandbox, status=replace(sandbox.status, last_disruption=DisruptionStatus(Reason.EVICTED, "", samples.NOW, 5))
    )
    now = samples.NOW + disruption.STEADY
    ended = evicted(1)
    if other_cause_first:
        sandbox = after(sandbox, seen(pod(ready=False, reason=Reason.NODE_LOST), evicted(0)), now)
    told = after(sandbox, seen(pod(ended), ended), now)
    assert (told.status.phase, last(told).count) == (Phase.STARTING, 1)


def test_old_end_is_no_cause_of_a_pod_that_was_removed_since() -> None:
    ended = evicted(1)
    told = after(running(), seen(pod(), ended), samples.NOW)
    removed = after(told, seen(None, ended), samples.NOW)
    assert removed.status.reason is Reason.WORKLOAD_PENDING


def test_lost_disk_is_not_called_kept() -> None:
    ended = evicted(1)
    told = after(running(), seen(pod(ended), ended, replace(VOLUME, lost=True)), samples.NOW)
    assert (told.status.reason, last(told).message) == (Reason.VOLUME_LOST, WORDS)
