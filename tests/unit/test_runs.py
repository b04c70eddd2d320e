"""From when on a pod that is ready counts as ready, and how long a failure is said while its process is tried again."""

import dataclasses
from datetime import datetime, timedelta

import pytest
from sandbox_server.domain import lifecycle, status
from sandbox_server.domain.observed import Exit, Fault, Observed, Pod, Volume, Workload
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import ConditionType, Phase, Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.reconciler import runs

from tests.support import samples

UID, DISK = "the-sandbox", "the-disk"
PACE = Pace()
FOR = timedelta(seconds=PACE.ready_for)
WORKLOAD = Workload(owner=UID, generation=1, replicas=1, revision=5)
VOLUME = Volume(owner=UID, uid=DISK, name="v", size="5Gi", bound=True)
END = Exit(7, "Error")
FELL = "the container ended with exit code 7 (Error); it is being started again"

pytestmark = [pytest.mark.find(9), pytest.mark.fault(61)]


def pod(reason: Reason = Reason.READY, restarts: int = 0, **changes: object) -> Pod:
    usual = {"owner": UID, "generation": 1, "uid": "pod", "ready": reason is Reason.READY, "reason": reason}
    usual |= {"restart_count": restarts, "last_exit": END if restarts else None, "probed": False}
    usual |= {"message": "" if reason in (Reason.READY, Reason.NOT_READY) else FELL}
    return Pod(**{**usual, **changes})  # type: ignore[arg-type]


class Life:
    """A sandbox that is looked at as the reconciler does, at times that the test says."""

    def __init__(self, phase: Phase = Phase.STARTING, **of_status: object) -> None:
        self.timer = runs.Timer()
        self.fault: Fault | None = None
        self.now = samples.NOW
        self.events: list[Sandbox] = []
        self.recheck_at: datetime | None = None
        self.sandbox = samples.sandbox(
            uid=UID,
            volume_uid=DISK,
            applied_generation=1,
            applied_revision=5,
            status=samples.status(phase=phase, **of_status),
        )

    def observe(self, seen: Pod) -> Observed:
        observed = Observed(workload=WORKLOAD, pod=seen, volume=VOLUME, fault=self.fault)
        return self.timer.timed(self.sandbox, observed, PACE, self.now)

    def look(self, seen: Pod, after: float = 0.0) -> tuple[Phase, Reason]:
        self.now += timedelta(seconds=after)
        observed = self.observe(seen)
        decision = lifecycle.decide(self.sandbox, observed, self.now)
        recorded = status.record(self.sandbox, observed, decision, self.now)
        self.recheck_at = decision.recheck_at
        if recorded != self.sandbox:
            self.events.append(recorded)
        self.sandbox = recorded
        return recorded.status.phase, recorded.status.reason


def test_first_start_without_a_probe_counts_when_it_has_run_for_a_while() -> None:
    life = Life()
    assert life.look(pod()) == (Phase.STARTING, Reason.NOT_READY)
    assert life.recheck_at == life.now + FOR
    ready = next(one for one in life.sandbox.status.conditions if one.type is ConditionType.READY)
    assert (ready.status, ready.reason) == (False, Reason.NOT_READY)
    assert life.sandbox.status.observed_generation == 0
    assert life.look(pod(), 2.9) == (Phase.STARTING, Reason.NOT_READY)
    assert life.look(pod(), 0.1) == (Phase.RUNNING, Reason.READY)
    assert life.sandbox.status.observed_generation == 1


def test_first_start_with_a_probe_counts_at_once() -> None:
    life = Life()
    assert life.look(pod(Reason.NOT_READY, probed=True)) == (Phase.STARTING, Reason.NOT_READY)
    assert life.look(pod(probed=True)) == (Phase.RUNNING, Reason.READY)


def test_restart_with_a_probe_counts_when_it_has_been_ready_for_a_while() -> None:
    life = Life(Phase.RUNNING)
    life.look(pod(probed=True))
    assert life.look(pod(Reason.RESTARTING, probed=True), 60) == (Phase.STARTING, Reason.RESTARTING)
    assert life.look(pod(restarts=1, probed=True), 1) == (Phase.STARTING, Reason.NOT_READY)
    assert life.look(pod(restarts=1, probed=True), 3) == (Phase.RUNNING, Reason.READY)


def test_run_that_counted_once_counts_again_at_once() -> None:
    life = Life()
    life.look(pod(restarts=1))
    assert life.look(pod(restarts=1), 3) == (Phase.RUNNING, Reason.READY)
    assert life.look(pod(Reason.NODE_LOST, restarts=1), 60) == (Phase.ERROR, Reason.NODE_LOST)
    assert life.look(pod(restarts=1), 60) == (Phase.RUNNING, Reason.READY)


def test_restart_of_the_service_leaves_what_runs_running() -> None:
    life = Life(Phase.RUNNING, reason=Reason.READY, observed_generation=1)
    assert life.look(pod(restarts=4)) == (Phase.RUNNING, Reason.READY)


def test_restart_between_two_looks_is_a_fall() -> None:
    life = Life(Phase.RUNNING)
    life.look(pod())
    assert life.look(pod(restarts=1), 60) == (Phase.STARTING, Reason.NOT_READY)


@pytest.mark.parametrize("reason", [one for one in Reason if one.is_failed_run])
@pytest.mark.parametrize("probed", [False, True])
def test_crash_loop_is_one_error_with_one_event_a_restart(reason: Reason, probed: bool) -> None:
    life = Life()
    life.look(pod(Reason.RESTARTING, restarts=0, last_exit=END))
    for restarts in range(1, 6):
        for one in (Reason.NOT_READY, Reason.READY, Reason.RESTARTING, reason):
            life.look(pod(one, restarts=restarts, probed=probed), 0.5)
    phases = [one.status.phase for one in life.events]
    assert Phase.RUNNING not in phases
    first = phases.index(Phase.ERROR)
    assert set(phases[first:]) == {Phase.ERROR}
    assert {one.status.reason for one in life.events[first:]} == {reason}
    assert len(life.events[first + 1 :]) == 4
    assert life.look(pod(restarts=6), 10) == (Phase.ERROR, reason)
    assert life.look(pod(restarts=6), 3) == (Phase.RUNNING, Reason.READY)


def test_failure_is_reported_only_for_a_while_once_a_process_runs_without_becoming_ready() -> None:
    life = Life(Phase.ERROR, reason=Reason.CRASH_LOOP, message=FELL)
    waits = pod(Reason.NOT_READY, restarts=2, probed=True)
    assert life.look(waits) == (Phase.ERROR, Reason.CRASH_LOOP)
    assert life.recheck_at == life.now + timedelta(seconds=PACE.restart_recent)
    assert life.look(waits, 60) == (Phase.STARTING, Reason.NOT_READY)


@pytest.mark.parametrize("reason", [Reason.IMAGE_PULL, Reason.UNSCHEDULABLE, Reason.NODE_LOST, Reason.VOLUME_PENDING])
def test_error_that_is_no_end_of_a_process_is_over_with_its_cause(reason: Reason) -> None:
    life = Life(Phase.ERROR, reason=reason)
    assert life.look(pod(Reason.CONTAINER_CREATING, restarts=1)) == (Phase.STARTING, Reason.CONTAINER_CREATING)


def test_next_generation_is_tried_without_the_failure_of_the_one_before() -> None:
    life = Life(Phase.ERROR, reason=Reason.CRASH_LOOP)
    life.look(pod(Reason.NOT_READY, restarts=1))
    life.sandbox = lifecycle.on_mutation(samples.next_generation(life.sandbox), life.now)
    fresh = dataclasses.replace(pod(probed=True), generation=2, uid="next")
    observed = dataclasses.replace(life.observe(fresh), workload=dataclasses.replace(WORKLOAD, generation=2))
    decision = lifecycle.decide(life.sandbox, observed, life.now)
    assert decision.phase is Phase.RUNNING


@pytest.mark.find(21)
def test_contested_sandbox_stays_in_error_until_a_pod_has_been_ready_for_a_while() -> None:
    life = Life(Phase.ERROR, reason=Reason.FIELD_CONFLICT, message="taken back")
    life.fault = Fault(Reason.FIELD_CONFLICT, "taken back")
    for number in range(3):
        assert life.look(pod(Reason.NOT_READY, uid=f"pod-{number}", probed=True), 1) == (Phase.ERROR, life.fault.reason)
        assert life.look(pod(uid=f"pod-{number}", probed=True), 1) == (Phase.ERROR, life.fault.reason)
    assert life.recheck_at == life.now + timedelta(seconds=PACE.contested_ready_for)
    assert life.look(pod(uid="pod-2", probed=True), 3) == (Phase.RUNNING, Reason.FIELD_CONFLICT)


@pytest.mark.find(21)
def test_pod_that_stays_when_a_contest_is_over_is_ready_after_a_while() -> None:
    life = Life(Phase.ERROR, reason=Reason.FIELD_CONFLICT, message="taken back")
    assert life.look(pod(probed=True)) == (Phase.STARTING, Reason.NOT_READY)
    assert life.look(pod(probed=True), 3) == (Phase.RUNNING, Reason.READY)
