"""The two properties of the lifecycle, over all combinations: it settles as desired, and never says so early."""

import dataclasses
import itertools
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox_server.domain import lifecycle, status
from sandbox_server.domain.observed import Fault, Observed, Pod, Volume, Workload
from sandbox_server.domain.phase import ConditionType, DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.situation import ROLLOUT_GUARD, Situation

from tests import samples
from tests.unit.domain.obedient import UID, ObedientEngine, settle

GENERATION, KNOWN = 3, "known-volume"
NOW = samples.NOW + timedelta(seconds=1)
LATE = samples.NOW + lifecycle.DEFAULT_START_DEADLINE
WANTED = {
    DesiredState.RUNNING: Phase.RUNNING,
    DesiredState.STOPPED: Phase.STOPPED,
    DesiredState.DELETED: Phase.TERMINATED,
}
POD_ERRORS = [
    one
    for one in Reason
    if one.is_error
    and one
    not in (
        Reason.VOLUME_LOST,
        Reason.NAME_CONFLICT,
        Reason.START_DEADLINE,
        Reason.QUOTA_EXCEEDED,
        Reason.ADMISSION_DENIED,
        Reason.NAMESPACE_MISSING,
        Reason.NAMESPACE_TERMINATING,
        Reason.CLUSTER_FORBIDDEN,
        Reason.ENGINE_REFUSED,
    )
]


def workload(**changes: object) -> Workload:
    usual = {"owner": UID, "generation": GENERATION, "replicas": 1, "revision": 5}
    return Workload(**{**usual, **changes})  # type: ignore[arg-type]


def pod(**changes: object) -> Pod:
    usual = {"owner": UID, "generation": GENERATION, "ready": True, "reason": Reason.READY}
    return Pod(**{**usual, **changes})  # type: ignore[arg-type]


def volume(**changes: object) -> Volume:
    usual = {"owner": UID, "uid": KNOWN, "name": "v", "size": "5Gi", "bound": True}
    return Volume(**{**usual, **changes})  # type: ignore[arg-type]


WORKLOADS = [
    None,
    workload(),
    workload(replicas=0),
    workload(replicas=0, obeyed=False),
    workload(generation=2),
    workload(generation=2, replicas=0),
    workload(revision=6),
    workload(terminating=True),
    workload(fault=Fault(Reason.QUOTA_EXCEEDED, "quota")),
    workload(owner="stranger"),
]
PODS = [
    None,
    pod(),
    pod(ready=False, reason=Reason.NOT_READY),
    pod(ready=False, reason=Reason.SCHEDULING),
    pod(generation=2),
    pod(terminating=True, ready=False, reason=Reason.NOT_READY),
    pod(generation=2, ready=False, reason=Reason.CRASH_LOOP),
    pod(owner="stranger"),
    pod(ready=False, reason=Reason.NODE_LOST),
    pod(ready=False, reason=Reason.IMAGE_PULL),
]
VOLUMES = [
    None,
    volume(),
    volume(bound=False),
    volume(bound=False, lost=True),
    volume(terminating=True),
    volume(uid="another"),
    volume(owner="stranger", uid="stranger"),
]
FAULTS = [None, Fault(Reason.CLUSTER_FORBIDDEN, "forbidden")]


def sandboxes() -> Iterator[Sandbox]:
    for desired, before, acted, known, keep, start in itertools.product(
        DesiredState,
        (Phase.CREATING, Phase.RUNNING, Phase.STOPPED, Phase.ERROR),
        (0, 2, 3),
        ("", KNOWN),
        (False, True),
        (1, 3),
    ):
        if keep and desired is not DesiredState.DELETED:
            continue
        yield samples.sandbox(
            uid=UID,
            desired=desired,
            generation=GENERATION,
            start_generation=start,
            keep_volume=keep,
            volume_uid=known,
            status=samples.status(phase=before, observed_generation=min(acted, 2)),
            applied_generation=acted,
            applied_revision=5,
        )


def situations() -> Iterator[tuple[Sandbox, Observed]]:
    for sandbox in sandboxes():
        for one, two, three in itertools.product(WORKLOADS, PODS, VOLUMES):
            yield sandbox, Observed(workload=one, pod=two, volume=three)


def unsettleable(sandbox: Sandbox, observed: Observed) -> set[Reason]:
    """The errors that only a caller or an operator can end."""
    found: set[Reason] = set()
    if sandbox.desired is DesiredState.DELETED:
        # A stranger's pod may hold our volume: then it is stuck, and said to be.
        stuck = observed.pod is not None and observed.pod.owner != UID
        return {Reason.VOLUME_TERMINATING} if stuck else found
    owners = [observed.workload and observed.workload.owner, observed.pod and observed.pod.owner]
    if not sandbox.volume_uid:
        owners.append(observed.volume and observed.volume.owner)
    if any(owner not in (None, UID) for owner in owners):
        found.add(Reason.NAME_CONFLICT)
    if sandbox.volume_uid and (
        observed.volume is None
        or observed.volume.uid != sandbox.volume_uid
        or observed.volume.terminating
        or observed.volume.lost
    ):
        found |= {Reason.VOLUME_LOST, Reason.VOLUME_TERMINATING}
    return found


def test_an_obedient_engine_always_settles_in_the_desired_phase_with_nothing_left_to_do() -> None:
    count = 0
    for sandbox, observed in situations():
        count += 1
        after, decision = settle(sandbox, ObedientEngine(observed), NOW)
        excused = unsettleable(sandbox, observed)
        if after.status.phase is WANTED[sandbox.desired]:
            held = decision.reason is Reason.VOLUME_TERMINATING
            assert decision.settled or held, (sandbox, observed, decision)
            assert decision.action is None
        else:
            assert decision.reason in excused, (sandbox, observed, decision)
            assert after.status.phase in (Phase.ERROR, Phase.TERMINATING)
    assert count > 30_000


def test_a_settled_phase_is_never_announced_early() -> None:
    for sandbox, observed in situations():
        for fault in FAULTS:
            seen = dataclasses.replace(observed, fault=fault)
            decision = lifecycle.decide(sandbox, seen, NOW)
            if decision.phase is Phase.RUNNING:
                assert seen.pod is not None
                assert seen.pod.ready
                assert seen.pod.generation == sandbox.generation
                assert not seen.pod.terminating
                assert sandbox.desired is DesiredState.RUNNING
            if decision.phase is Phase.STOPPED:
                assert seen.pod is None
                assert seen.workload is not None
                assert seen.workload.replicas == 0
            if decision.phase is Phase.TERMINATED:
                assert seen.pod is None or seen.pod.owner != UID
                assert seen.workload is None or seen.workload.owner != UID
                assert sandbox.keep_volume or seen.volume is None or seen.volume.owner != UID
            if decision.settled:
                assert decision.action is None
                assert decision.phase is WANTED[sandbox.desired]


def test_a_disk_is_only_removed_when_delete_says_so_and_nothing_starts_on_a_fresh_one() -> None:
    for sandbox, observed in situations():
        action = lifecycle.decide(sandbox, observed, NOW).action
        if isinstance(action, lifecycle.Delete):
            assert sandbox.desired is DesiredState.DELETED
        lost = observed.volume is None or observed.volume.uid != KNOWN
        if isinstance(action, lifecycle.Apply) and sandbox.volume_uid and lost:
            assert action.replicas == 0


def test_every_rule_phase_and_reason_can_come_about() -> None:
    hit: set[int] = set()
    phases: set[Phase] = set()
    reasons: set[Reason] = set()
    faults = [None, *(Fault(one, "words") for one in Reason if one.is_error)]
    everything = [*situations()]
    everything += [
        (dataclasses.replace(one, status=samples.status(phase=Phase.TERMINATED, reason=Reason.DELETED)), Observed())
        for one in sandboxes()
    ]
    lost = pod(terminating=True, ready=False, reason=Reason.NODE_LOST)
    everything += [(one, Observed(workload=workload(), pod=lost, volume=volume())) for one in sandboxes()]
    waiting = (Reason.RESTARTING, Reason.CONTAINER_CREATING, Reason.NOT_READY)
    unready = [pod(ready=False, reason=one) for one in (*waiting, *POD_ERRORS)]
    everything += [
        (one, Observed(workload=workload(), pod=two, volume=volume())) for one in sandboxes() for two in unready
    ]
    for now in (NOW, LATE):
        for number, (sandbox, observed) in enumerate(everything):
            seen = dataclasses.replace(observed, fault=faults[number % len(faults)] if number % 7 == 0 else None)
            at = Situation.of(sandbox, seen, now, lifecycle.DEFAULT_START_DEADLINE)
            rule = next(one for one in lifecycle.RULES[sandbox.desired] if one.finds(at))
            hit.add(id(rule))
            decision = lifecycle.decide(sandbox, seen, now)
            phases.add(decision.phase)
            reasons.add(decision.reason)
    for sandbox in sandboxes():
        accepted = lifecycle.on_wish(sandbox, NOW).status
        phases.add(accepted.phase)
        reasons.add(accepted.reason)
    assert {id(rule) for rules in lifecycle.RULES.values() for rule in rules} <= hit
    assert phases == set(Phase)
    assert reasons == set(Reason)


def test_an_error_goes_away_with_its_cause() -> None:
    for reason in POD_ERRORS:
        sandbox = next(one for one in sandboxes() if one.desired is DesiredState.RUNNING and one.volume_uid)
        bad = Observed(workload=workload(), pod=pod(ready=False, reason=reason), volume=volume())
        assert lifecycle.decide(sandbox, bad, NOW).phase is Phase.ERROR
        good = dataclasses.replace(bad, pod=pod())
        assert lifecycle.decide(sandbox, good, NOW).phase is Phase.RUNNING


def test_the_start_deadline_is_an_error_that_a_late_pod_ends() -> None:
    sandbox = next(one for one in sandboxes() if one.desired is DesiredState.RUNNING and one.volume_uid)
    waiting = Observed(workload=workload(), pod=pod(ready=False, reason=Reason.NOT_READY), volume=volume())
    early = lifecycle.decide(sandbox, waiting, NOW)
    assert early.phase is not Phase.ERROR
    assert early.recheck_at == LATE
    late = lifecycle.decide(sandbox, waiting, LATE)
    assert (late.phase, late.reason) == (Phase.ERROR, Reason.START_DEADLINE)
    assert "NOT_READY" in late.message
    assert lifecycle.decide(sandbox, dataclasses.replace(waiting, pod=pod()), LATE).phase is Phase.RUNNING


def test_25_a_volume_that_is_being_removed_is_said_while_the_pod_still_holds_it() -> None:
    sandbox = next(one for one in sandboxes() if one.desired is DesiredState.RUNNING and one.volume_uid)
    held = Observed(workload=workload(), pod=pod(), volume=volume(terminating=True))
    decision = lifecycle.decide(sandbox, held, NOW)
    assert (decision.phase, decision.reason) == (Phase.RUNNING, Reason.VOLUME_TERMINATING)
    gone = Observed(workload=workload(), pod=None, volume=None)
    decision = lifecycle.decide(sandbox, gone, NOW)
    assert (decision.phase, decision.reason) == (Phase.ERROR, Reason.VOLUME_LOST)
    assert decision.action == lifecycle.Apply(0)


def test_25_26_a_disk_that_is_being_removed_is_not_told_as_kept() -> None:
    sandbox = next(one for one in sandboxes() if one.keep_volume and one.volume_uid and one.applied_generation == 3)
    for going, phase, reason in (
        (None, Phase.TERMINATED, Reason.DELETED),
        (volume(), Phase.TERMINATED, Reason.VOLUME_KEPT),
        (volume(terminating=True), Phase.TERMINATING, Reason.VOLUME_TERMINATING),
    ):
        decision = lifecycle.decide(sandbox, Observed(volume=going), NOW)
        assert (decision.phase, decision.reason, decision.action) == (phase, reason, None)


@given(
    st.lists(st.sampled_from(["run", "stop", "env", "delete", "step", "step", "look", "look", "forget"]), max_size=40)
)
def test_wishes_at_any_moment_converge_to_the_last(moves: list[str]) -> None:
    sandbox = samples.sandbox(uid=UID)
    engine = ObedientEngine(Observed())
    now = samples.NOW
    for move in moves:
        now += timedelta(seconds=1)
        if move == "step":
            engine.step()
        elif move == "look":
            decision = lifecycle.decide(sandbox, engine.observe(), now)
            sandbox = status.record(sandbox, engine.observe(), decision, now)
            if decision.action is not None:
                engine.act(sandbox, decision.action)
        elif move == "forget":
            # A crash after the act: what was applied is not written down.
            pass
        elif sandbox.desired is not DesiredState.DELETED:
            wish = {"run": DesiredState.RUNNING, "stop": DesiredState.STOPPED, "delete": DesiredState.DELETED}
            desired = wish.get(move, sandbox.desired)
            start = sandbox.generation + 1 if move == "run" else sandbox.start_generation
            sandbox = lifecycle.on_wish(samples.wished(sandbox, desired=desired, start_generation=start), now)
            assert sandbox.status.reason is Reason.ACCEPTED
    after, decision = settle(sandbox, engine, now)
    assert after.status.phase is WANTED[sandbox.desired]
    assert decision.settled
    assert after.status.observed_generation == after.generation


def test_a_long_word_of_the_cluster_is_cut() -> None:
    fault = Fault(Reason.ADMISSION_DENIED, "no " * 500_000)
    decision = lifecycle.decide(samples.sandbox(), Observed(fault=fault), NOW)
    told = status.record(samples.sandbox(), Observed(fault=fault), decision, NOW).status
    assert (told.reason, told.message) == (fault.reason, fault.message[: lifecycle.MESSAGE_MOST])


def test_record_keeps_the_laws_of_a_status() -> None:
    for number, (sandbox, observed) in enumerate(situations()):
        if number % 11:
            continue
        decision = lifecycle.decide(sandbox, observed, NOW)
        recorded = status.record(sandbox, observed, decision, NOW)
        before, after = sandbox.status, recorded.status
        assert (after.transition_time == NOW) == (after.phase is not before.phase)
        assert after.observed_generation >= before.observed_generation
        assert len({one.type for one in after.conditions}) == len(after.conditions) == 5
        fell = before.phase is Phase.RUNNING and after.phase is not Phase.RUNNING
        assert recorded.attempt_at == (NOW if fell else sandbox.attempt_at)
        again = status.record(dataclasses.replace(sandbox, status=after), observed, decision, LATE).status
        assert again.conditions == after.conditions


def test_24_25_what_stands_under_its_name_and_is_not_its_own_is_not_told_as_its_own() -> None:
    for sandbox, observed in situations():
        recorded = status.record(sandbox, observed, lifecycle.decide(sandbox, observed, NOW), NOW)
        holds = {one.type for one in recorded.status.conditions if one.status}
        if observed.pod and observed.pod.owner != UID:
            assert not holds & {ConditionType.SCHEDULED, ConditionType.READY, ConditionType.ENV_APPLIED}
        volume, known = observed.volume, sandbox.volume_uid
        if volume and (volume.uid != known if known else volume.owner != UID):
            assert ConditionType.VOLUME_BOUND not in holds
            assert recorded.status.volume is None
            assert recorded.volume_uid == known


@pytest.mark.find(16)
def test_broken_pod_that_controller_keeps_is_replaced_by_scaling_down_and_up() -> None:
    sandbox = samples.sandbox(
        uid=UID,
        generation=GENERATION,
        volume_uid=KNOWN,
        applied_generation=GENERATION,
        applied_revision=5,
        status=samples.status(observed_generation=2),
    )
    guarded = sandbox.attempt_at + ROLLOUT_GUARD
    broken = pod(generation=2, ready=False, reason=Reason.CRASH_LOOP)

    def decide(workload: Workload, pod: Pod | None, now: datetime) -> lifecycle.Decision:
        return lifecycle.decide(sandbox, Observed(workload=workload, pod=pod, volume=volume()), now)

    before = decide(workload(), broken, NOW)
    assert (before.action, before.recheck_at) == (None, guarded)
    assert decide(workload(), broken, guarded).action == lifecycle.Apply(0)
    # The controller has not removed the pod yet: scaled up now, it would keep the pod.
    assert decide(workload(replicas=0, obeyed=False), broken, guarded).action is None
    going = dataclasses.replace(broken, terminating=True)
    assert decide(workload(replicas=0), going, guarded).action == lifecycle.Apply(1)
    assert decide(workload(replicas=0), None, guarded).action == lifecycle.Apply(1)
    # A pod that is ready is replaced by every release; one that the controller has yet to hear of may be.
    assert decide(workload(), pod(generation=2), guarded).action is None
    assert decide(workload(obeyed=False), broken, guarded).action is None


@pytest.mark.find(5)
@pytest.mark.parametrize("desired", [DesiredState.RUNNING, DesiredState.STOPPED])
@pytest.mark.parametrize("seen", [None, pod()], ids=["no pod", "a running pod"])
@pytest.mark.parametrize("terminating", [False, True])
def test_a_claim_without_its_volume_is_a_lost_disk(desired: DesiredState, seen: Pod | None, terminating: bool) -> None:
    sandbox = next(one for one in sandboxes() if one.desired is desired and one.volume_uid)
    lost = Observed(workload=workload(), pod=seen, volume=volume(bound=False, lost=True, terminating=terminating))
    decision = lifecycle.decide(sandbox, lost, NOW)
    assert (decision.phase, decision.reason) == (Phase.ERROR, Reason.VOLUME_LOST)
    told = status.record(sandbox, lost, decision, NOW).status
    (bound,) = [one for one in told.conditions if one.type is ConditionType.VOLUME_BOUND]
    assert (bound.status, bound.reason) == (False, Reason.VOLUME_LOST)
    assert told.volume is not None
    assert not told.volume.bound
    back = lifecycle.decide(sandbox, dataclasses.replace(lost, volume=volume()), NOW)
    assert back.reason is not Reason.VOLUME_LOST


@pytest.mark.find(5)
def test_a_claim_that_was_given_up_does_not_become_the_disk_again() -> None:
    sandbox = next(one for one in sandboxes() if one.desired is DesiredState.RUNNING and not one.volume_uid)
    lost = Observed(workload=workload(), volume=volume(bound=False, lost=True))
    decision = lifecycle.decide(sandbox, lost, NOW)
    assert decision.action is not None
    assert status.record(sandbox, lost, decision, NOW).volume_uid == ""


@pytest.mark.find(5)
def test_a_delete_that_keeps_a_claim_without_its_volume_says_so() -> None:
    sandbox = next(one for one in sandboxes() if one.keep_volume and one.volume_uid and one.applied_generation == 3)
    decision = lifecycle.decide(sandbox, Observed(volume=volume(bound=False, lost=True)), NOW)
    assert decision.phase is Phase.TERMINATED
    assert "no longer exists" in decision.message


@pytest.mark.find(1)
@pytest.mark.parametrize(
    ("fallen", "reason"),
    [
        (pod(ready=False, reason=Reason.NOT_READY), Reason.NOT_READY),
        (pod(ready=False, reason=Reason.RESTARTING), Reason.RESTARTING),
        (pod(ready=False, reason=Reason.SCHEDULING), Reason.SCHEDULING),
        (pod(terminating=True, ready=False, reason=Reason.NOT_READY), Reason.ROLLING_OUT),
        (None, Reason.WORKLOAD_PENDING),
    ],
)
def test_start_deadline_counts_from_the_fall_of_a_running_sandbox(fallen: Pod | None, reason: Reason) -> None:
    sandbox = samples.sandbox(
        uid=UID,
        generation=GENERATION,
        volume_uid=KNOWN,
        applied_generation=GENERATION,
        applied_revision=5,
        status=samples.status(phase=Phase.RUNNING, reason=Reason.READY, observed_generation=GENERATION),
    )
    observed = Observed(workload=workload(), pod=fallen, volume=volume())
    fell_at = LATE + timedelta(hours=1)
    decision = lifecycle.decide(sandbox, observed, fell_at)
    deadline = fell_at + lifecycle.DEFAULT_START_DEADLINE
    assert (decision.phase, decision.reason, decision.recheck_at) == (Phase.STARTING, reason, deadline)
    after = status.record(sandbox, observed, decision, fell_at)
    before_deadline = lifecycle.decide(after, observed, deadline - timedelta(seconds=1))
    assert (before_deadline.phase, before_deadline.reason) == (Phase.STARTING, reason)
    assert lifecycle.decide(after, observed, deadline).reason is Reason.START_DEADLINE
