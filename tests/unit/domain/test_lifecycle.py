"""The two properties of the lifecycle, over all combinations: it settles as desired, and never says so early."""

import dataclasses
import itertools
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sandbox_server.domain import last_snapshots, lifecycle, mutations, rules, status
from sandbox_server.domain.observed import Disruption, Fault, Move, Observed, Pod, Volume, Workload
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import Adopted, DisruptionStatus, Key, LastSnapshot, Origin, Sandbox
from sandbox_server.domain.situation import Situation

from tests.support import samples
from tests.support.obedient import UID, ObedientEngine, settle

GENERATION, KNOWN = 3, "known-volume"
NOW = samples.NOW + timedelta(seconds=1)
LATE = samples.NOW + timedelta(seconds=Pace.start_deadline)
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
    workload(replicas=0, controller_caught_up=False),
    workload(replicas=0, controller_caught_up=False, ignored_at=samples.NOW),
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


UNOBSERVABLE = [
    Fault(one, "words") for one in (Reason.CLUSTER_FORBIDDEN, Reason.CLUSTER_BUSY, Reason.NAMESPACE_TERMINATING)
]


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


PARTS = 13
"""No divisor of the number of combinations, so that each part has every value of everything."""


@pytest.fixture(params=[0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))])
def some(request: pytest.FixtureRequest) -> Iterator[tuple[Sandbox, Observed]]:
    """A part of the situations: `make test` takes one, `make test-all` every one."""
    return itertools.islice(situations(), request.param, None, PARTS)


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


@pytest.mark.slow
def test_an_obedient_engine_always_settles_in_the_desired_phase_with_nothing_left_to_do(
    some: Iterator[tuple[Sandbox, Observed]],
) -> None:
    count = 0
    for sandbox, observed in some:
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
    assert count > 30_000 / PARTS


@pytest.mark.slow
def test_a_settled_phase_is_never_announced_early(some: Iterator[tuple[Sandbox, Observed]]) -> None:
    for sandbox, observed in some:
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


@pytest.mark.slow
def test_disk_is_only_removed_by_a_delete_and_nothing_starts_on_an_empty_one(
    some: Iterator[tuple[Sandbox, Observed]],
) -> None:
    for sandbox, observed in some:
        action = lifecycle.decide(sandbox, observed, NOW).action
        if isinstance(action, lifecycle.Delete):
            assert sandbox.desired is DesiredState.DELETED
        if isinstance(action, lifecycle.RemoveWorkload):
            assert sandbox.desired is not DesiredState.RUNNING
            assert sandbox.applied_generation == sandbox.generation
        lost = observed.volume is None or observed.volume.uid != KNOWN
        if isinstance(action, lifecycle.Apply) and sandbox.volume_uid and lost:
            assert action.replicas == 0


def test_nothing_runs_on_a_disk_that_is_not_made_from_its_origin() -> None:
    origin = Origin("snap", Key("default", "other"), "disk")
    for one in sandboxes():
        for ready in (None, pod()):
            made = dataclasses.replace(one, origin=origin)
            seen = Observed(workload=workload(), pod=ready, volume=volume(misled="words"))
            decision = lifecycle.decide(made, seen, NOW)
            assert decision.phase is not Phase.RUNNING
            if isinstance(decision.action, lifecycle.Apply):
                assert decision.action.replicas == 0


@pytest.mark.slow
def test_every_rule_phase_and_reason_can_come_about() -> None:
    hit: set[int] = set()
    phases: set[Phase] = set()
    reasons: set[Reason] = set()
    everything: list[tuple[Sandbox, Observed | None]] = [*itertools.islice(situations(), 0, None, PARTS)]
    everything += [(one, None) for one in sandboxes()]
    everything += [
        (dataclasses.replace(one, status=dataclasses.replace(one.status, observed_generation=reached)), unseen)
        for one in sandboxes()
        for reached in (GENERATION - 1, GENERATION)
        for unseen in (Observed(unobservable=fault) for fault in UNOBSERVABLE)
    ]
    everything += [
        (dataclasses.replace(one, status=samples.status(phase=Phase.TERMINATED, reason=Reason.DELETED)), Observed())
        for one in sandboxes()
    ]
    adopted = Adopted(uids=(), workload="{}", selector={}, container="agent", given_back=True)
    everything += [(dataclasses.replace(one, adopted=adopted), Observed()) for one in sandboxes()]
    lost = pod(terminating=True, ready=False, reason=Reason.NODE_LOST)
    everything += [(one, Observed(workload=workload(), pod=lost, volume=volume())) for one in sandboxes()]
    waiting = (Reason.RESTARTING, Reason.CONTAINER_CREATING, Reason.NOT_READY)
    unready = [pod(ready=False, reason=one) for one in (*waiting, *POD_ERRORS)]
    unready.append(pod(ready=False, reason=Reason.IMAGE_PULL, passing=True))
    everything += [
        (one, Observed(workload=workload(), pod=two, volume=volume())) for one in sandboxes() for two in unready
    ]
    contested = [Fault(one, "words") for one in Reason if one.is_error]
    everything += [
        (one, Observed(workload=workload(), pod=two, volume=volume(), fault=fault))
        for one in sandboxes()
        for two in (pod(), pod(ready=False, reason=Reason.NOT_READY))
        for fault in contested
    ]
    again = pod(ready_at=LATE + timedelta(seconds=1), recent_until=LATE + timedelta(seconds=1))
    everything += [
        (dataclasses.replace(one, status=status), Observed(workload=workload(), pod=again, volume=volume()))
        for one in sandboxes()
        for status in (one.status, samples.status(phase=Phase.ERROR, reason=Reason.CRASH_LOOP))
    ]
    waits = LastSnapshot("words")
    everything += [
        (dataclasses.replace(one, last_snapshot=waits), Observed(workload=two, volume=volume()))
        for one in sandboxes()
        for two in (None, workload(replicas=0))
    ]
    origin = Origin("snap", Key("default", "other"), "disk")
    everything += [
        (dataclasses.replace(one, origin=origin), Observed(workload=workload(), volume=two))
        for one in sandboxes()
        for two in (volume(uid="", bound=False), volume(misled="words"))
    ]
    moves = [Move(copied, False, "words", failure) for copied in (False, True) for failure in ("", "words")]
    everything += [
        (one, Observed(workload=workload(replicas=0), pod=ready, volume=volume(), move=move))
        for one in sandboxes()
        for ready in (None, pod())
        for move in moves
    ]
    ends = [Disruption(f"pod-{one.name}", one, "words") for one in Reason if one.is_disruption]
    gone = samples.status(last_disruption=DisruptionStatus(Reason.EVICTED, "words", NOW, 2))
    everything += [
        (dataclasses.replace(one, status=status, disruptions=count), Observed(disruption=end))
        for one in sandboxes()
        for end in ends
        for status, count in ((one.status, 0), (gone, 2))
    ]
    for now in (NOW, LATE):
        for sandbox, observed in everything:
            at = Situation.of(sandbox, observed, now, lifecycle.PACE)
            rule, finding = rules.first(at)
            hit.add(id(rule))
            assert rule.reason in (None, finding.reason), rule.when
            decision = lifecycle.decide(sandbox, observed, now)
            phases.add(decision.phase)
            reasons.add(decision.reason)
    assert [rule.when for table in rules.RULES.values() for rule in table if id(rule) not in hit] == []
    assert phases == set(Phase)
    assert reasons == {one for one in Reason if not one.is_of_condition}


def test_accepted_mutation_waits_for_the_first_look() -> None:
    for sandbox in sandboxes():
        decision = lifecycle.decide(sandbox, None, NOW)
        assert (decision.reason, decision.action, decision.settled) == (Reason.ACCEPTED, None, False)
        assert lifecycle.on_mutation(sandbox, NOW).status.phase is decision.phase
        assert decision.phase is not Phase.ERROR


def test_new_sandbox_has_the_phase_that_the_tables_give_it() -> None:
    made = mutations.new(Key("default", "a"), "tenant", "uid", "host", samples.spec(), (), NOW)
    decision = lifecycle.decide(made, None, NOW)
    assert lifecycle.with_decision(made.status, decision, NOW) == made.status


@pytest.mark.parametrize("fault", UNOBSERVABLE, ids=lambda fault: fault.reason.name)
def test_unobservable_namespace_changes_nothing_but_phase_and_cause(fault: Fault) -> None:
    waits = {DesiredState.STOPPED: Phase.STOPPING, DesiredState.DELETED: Phase.TERMINATING}
    for sandbox in sandboxes():
        ending = fault.reason is Reason.NAMESPACE_TERMINATING
        passes = fault.reason is Reason.CLUSTER_BUSY or (ending and sandbox.desired is DesiredState.DELETED)
        observed = Observed(unobservable=fault)
        decision = lifecycle.decide(sandbox, observed, NOW)
        assert decision.phase is (waits.get(sandbox.desired, Phase.ERROR) if passes else Phase.ERROR)
        assert (decision.reason, decision.message) == (fault.reason, fault.message)
        assert (decision.action, decision.settled, decision.recheck_at) == (None, False, None)
        said = lifecycle.with_decision(sandbox.status, decision, NOW)
        assert status.record(sandbox, observed, decision, NOW) == dataclasses.replace(sandbox, status=said)
        if sandbox.desired is not DesiredState.DELETED and not ending:
            reached = dataclasses.replace(sandbox, status=dataclasses.replace(said, observed_generation=GENERATION))
            assert status.record(reached, observed, lifecycle.decide(reached, observed, NOW), NOW) == reached


@pytest.mark.slow
def test_refusal_counts_for_as_long_as_there_is_something_to_do() -> None:
    refusal = Fault(Reason.QUOTA_EXCEEDED, "no")
    due = 0
    for sandbox, observed in itertools.islice(situations(), 0, None, 11):
        decision = lifecycle.decide(sandbox, observed, NOW, refusal=refusal)
        without = lifecycle.decide(sandbox, observed, NOW)
        refused = lifecycle.decide(sandbox, dataclasses.replace(observed, fault=refusal), NOW)
        assert decision == (without if without.action is None else refused)
        due += decision.reason is Reason.QUOTA_EXCEEDED
    assert due > 100


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


@pytest.mark.find(7)
def test_next_generation_begins_without_the_error_of_the_one_before() -> None:
    failed = samples.status(phase=Phase.ERROR, reason=Reason.IMAGE_PULL)
    before = samples.sandbox(uid=UID, volume_uid=KNOWN, status=failed)
    at = lifecycle.on_mutation(samples.next_generation(before), NOW)
    first = pod(ready=False, reason=Reason.IMAGE_PULL, generation=2, passing=True)
    observed = Observed(workload=workload(generation=2), pod=first, volume=volume())
    assert lifecycle.decide(at, observed, NOW).reason is Reason.CONTAINER_CREATING
    late = NOW + timedelta(seconds=Pace.start_deadline)
    assert lifecycle.decide(at, observed, late).reason is Reason.START_DEADLINE


@pytest.mark.fault(58)
@pytest.mark.find(6)
@pytest.mark.parametrize("reason", [Reason.NAMESPACE_MISSING, Reason.NAMESPACE_TERMINATING])
@pytest.mark.slow
def test_the_end_of_the_namespace_takes_precedence_over_its_consequences(
    reason: Reason, some: Iterator[tuple[Sandbox, Observed]]
) -> None:
    ends = Fault(reason, "words")
    for sandbox, observed in some:
        decision = lifecycle.decide(sandbox, dataclasses.replace(observed, namespace=ends), NOW)
        if sandbox.desired is not DesiredState.DELETED:
            assert (decision.phase, decision.reason) == (Phase.ERROR, reason)
        elif reason is Reason.NAMESPACE_TERMINATING and decision.phase is not Phase.TERMINATED:
            assert decision.phase is Phase.TERMINATING
            assert decision.reason in (reason, Reason.WORKLOAD_PENDING)


@pytest.mark.fault(58)
@pytest.mark.find(6)
@pytest.mark.slow
def test_a_namespace_that_may_be_gone_says_so_only_of_what_is_missing(some: Iterator[tuple[Sandbox, Observed]]) -> None:
    hidden = Fault(Reason.CLUSTER_FORBIDDEN, "may be gone")
    for sandbox, observed in some:
        lost = lifecycle.unexplained(sandbox, observed, NOW)
        before = lifecycle.decide(sandbox, observed, NOW)
        after = lifecycle.decide(sandbox, dataclasses.replace(observed, namespace=hidden), NOW)
        if lost:
            assert (after.phase, after.message) == (Phase.ERROR, "may be gone")
        else:
            assert after == before


@pytest.mark.find(16)
@pytest.mark.parametrize(
    ("caught_up", "overdue", "replicas"), [(True, True, 0), (True, False, None), (False, True, None)]
)
def test_broken_outdated_pod_goes_once_the_controller_has_seen_its_workload_and_left_it(
    caught_up: bool, overdue: bool, replicas: int | None
) -> None:
    at = samples.sandbox(
        uid=UID, generation=GENERATION, volume_uid=KNOWN, applied_generation=GENERATION, applied_revision=5
    )
    guard_ends = samples.NOW - timedelta(seconds=1) if overdue else samples.NOW + timedelta(seconds=1)
    observed = Observed(
        workload=workload(controller_caught_up=caught_up, ignored_at=guard_ends),
        pod=pod(generation=2, ready=False, reason=Reason.CRASH_LOOP),
        volume=volume(),
    )
    action = lifecycle.decide(at, observed, samples.NOW).action
    assert action == (None if replicas is None else lifecycle.Apply(replicas))


def test_pod_of_a_former_system_stays_whatever_its_rollout_waits_for() -> None:
    adopted = Adopted(uids=("s",), workload="{}", selector={"app": "a"}, container="agent", keeps_pod=True)
    at = samples.sandbox(uid=UID, generation=1, volume_uid=KNOWN, applied_generation=1, applied_revision=5)
    observed = Observed(
        workload=workload(generation=1, template="b", ignored_at=samples.NOW - timedelta(seconds=1)),
        pod=pod(generation=1, template="a", ready=False, reason=Reason.CRASH_LOOP),
        volume=volume(),
    )
    assert lifecycle.decide(dataclasses.replace(at, adopted=adopted), observed, samples.NOW).action is None
    assert lifecycle.decide(at, observed, samples.NOW).action == lifecycle.Apply(0)
    # The StatefulSet of one that is moved from a Deployment is the service's.
    moving = dataclasses.replace(adopted, keeps_pod=False, pod="former")
    assert lifecycle.decide(dataclasses.replace(at, adopted=moving), observed, samples.NOW).action == lifecycle.Apply(0)


@pytest.mark.slow
def test_nothing_of_a_deleted_sandbox_goes_before_its_last_snapshot() -> None:
    waiting = [
        dataclasses.replace(one, last_snapshot=LastSnapshot("words"))
        for one in sandboxes()
        if one.desired is DesiredState.DELETED
    ]
    shown = [
        Observed(workload=one, pod=two, volume=three)
        for one, two, three in itertools.product((*WORKLOADS, workload(replicas=0)), PODS, VOLUMES)
    ]
    actions = set()
    for sandbox, observed in itertools.islice(itertools.product(waiting, shown), 0, None, PARTS):
        decision = lifecycle.decide(sandbox, observed, LATE)
        actions.add(decision.action)
        assert decision.phase is not Phase.TERMINATED
        assert decision.action in (None, lifecycle.Apply(0), lifecycle.RemoveWorkload())
        released = last_snapshots.released(sandbox)
        assert isinstance(lifecycle.decide(released, observed, LATE).action, lifecycle.Delete)
    assert lifecycle.Apply(0) in actions
