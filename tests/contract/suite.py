"""The contract of an engine. Each kind runs these very tests against its own ground, through the fixture `rig`."""

import dataclasses

import pytest
from sandbox_server import engines
from sandbox_server.domain import errors
from sandbox_server.domain.phase import ConditionType, Phase, Reason
from sandbox_server.domain.sandbox import Sandbox

from tests.support import samples
from tests.support.rig import A, Rig


def all_well(sandbox: Sandbox) -> bool:
    """Whether every condition is as it should be, but for that of the disk, which is not measured."""
    return all(one.status for one in sandbox.status.conditions if one.type is not ConditionType.DISK_NEARLY_FULL)


async def test_create_becomes_ready(rig: Rig) -> None:
    made = await rig.create(A, {"A": "1"})
    assert (made.status.phase, made.status.reason) == (Phase.CREATING, Reason.ACCEPTED)
    after = await rig.settled(A, Phase.RUNNING)
    observed = rig.observe(after)
    assert observed.workload is not None
    assert observed.pod is not None
    assert observed.volume is not None
    assert (observed.workload.owner, observed.pod.owner) == (made.uid, made.uid)
    assert after.volume_uid == observed.volume.uid
    assert after.status.volume is not None
    assert after.status.volume.bound
    assert all_well(after)
    rig.check_history()


async def test_stop_keeps_the_disk_and_start_takes_it_up(rig: Rig) -> None:
    await rig.create(A)
    before = await rig.settled(A, Phase.RUNNING)
    await rig.begin(A, Phase.STOPPED)
    stopped = await rig.settled(A, Phase.STOPPED)
    assert rig.observe(stopped).pod is None
    await rig.begin(A, Phase.RUNNING)
    after = await rig.settled(A, Phase.RUNNING)
    volume = rig.observe(after).volume
    assert volume is not None
    assert volume.uid == before.volume_uid == after.volume_uid
    assert after.generation == 3
    rig.check_history()


async def test_an_env_update_replaces_the_running_pod(rig: Rig) -> None:
    await rig.create(A, {"A": "1"})
    await rig.settled(A, Phase.RUNNING)
    changed = await rig.env(A, A="2")
    assert changed.status.phase is Phase.UPDATING
    (applied,) = [one for one in changed.status.conditions if one.type is ConditionType.ENV_APPLIED]
    assert (applied.status, applied.reason) == (False, Reason.ACCEPTED)
    after = await rig.settled(A, Phase.RUNNING)
    pod = rig.observe(after).pod
    assert pod is not None
    assert pod.generation == 2
    same = await rig.env(A, A="2")
    assert same.generation == 2
    rig.check_history()


async def test_an_env_update_of_a_stopped_sandbox_waits_for_its_start(rig: Rig) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    await rig.env(A, A="2")
    stopped = await rig.settled(A, Phase.STOPPED)
    assert rig.observe(stopped).pod is None
    await rig.begin(A, Phase.RUNNING)
    after = await rig.settled(A, Phase.RUNNING)
    assert after.env_names == ("A",)
    rig.check_history()


async def test_a_crash_loop_is_said_with_its_exit_code_and_recovers(rig: Rig) -> None:
    await rig.create(A)
    running = await rig.settled(A, Phase.RUNNING)
    await rig.ground.crash(running)
    failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    assert failed.status.reason is Reason.CRASH_LOOP
    assert failed.status.last_exit is not None
    assert failed.status.last_exit.code == 3
    assert failed.status.restart_count > 0
    assert "3" in failed.status.message
    await rig.ground.heal(failed)
    await rig.settled(A, Phase.RUNNING)
    rig.check_history()


@pytest.mark.find(45)
async def test_the_last_words_of_a_crash_are_said_without_the_environment(rig: Rig) -> None:
    await rig.create(A, {"TOKEN": samples.CANARY})
    running = await rig.settled(A, Phase.RUNNING)
    await rig.ground.crash(running)
    failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    assert failed.status.last_exit is not None
    assert failed.status.last_exit.message == "cannot connect with [redacted]"
    # While the pod of the earlier generation is all there is, its values are not known any more.
    await rig.env(A, TOKEN="another")
    again = await rig.until(A, lambda one: one.status.reason is not Reason.ACCEPTED)
    assert again.status.last_exit == failed.status.last_exit
    await rig.ground.heal(failed)


@pytest.mark.fault(29)
@pytest.mark.fault(66)
async def test_a_good_env_update_recovers_from_a_crash_loop_without_help(rig: Rig) -> None:
    await rig.create(A)
    running = await rig.settled(A, Phase.RUNNING)
    await rig.ground.crash(running)
    await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    await rig.ground.heal(running)
    await rig.env(A, GOOD="1")
    after = await rig.settled(A, Phase.RUNNING)
    assert after.status.restart_count == 0


async def test_an_update_of_the_spec_replaces_the_running_pod(rig: Rig) -> None:
    await rig.create(A, {"A": "1"})
    before = await rig.settled(A, Phase.RUNNING)
    changed = await rig.update(A, args=("another",), labels={"tier": "web"}, grace_period_seconds=7)
    assert (changed.status.phase, changed.generation) == (Phase.UPDATING, 2)
    after = await rig.settled(A, Phase.RUNNING)
    observed = rig.observe(after)
    assert observed.pod is not None
    assert observed.pod.generation == 2
    assert after.volume_uid == before.volume_uid
    assert (after.env_names, after.addresses) == (before.env_names, before.addresses)
    same = await rig.update(A, args=("another",), labels={"tier": "web"})
    assert same == after
    rig.check_history()


async def test_other_labels_replace_no_pod_until_something_else_does(rig: Rig) -> None:
    spec = dataclasses.replace(rig.ground.spec(), labels={"tier": "web"})
    await rig.create(A, {"A": "1"}, spec=spec)
    before = rig.observe(await rig.settled(A, Phase.RUNNING)).pod
    for tier in ("db", "cache"):
        await rig.update(A, labels={"tier": tier})
        after = await rig.settled(A, Phase.RUNNING)
        assert after.status.observed_generation == after.generation
        assert all_well(after)
        assert rig.observe(after).pod == before
    await rig.restart()
    again = await rig.settled(A, Phase.RUNNING)
    pod = rig.observe(again).pod
    assert pod is not None
    assert before is not None
    assert (pod.uid, pod.generation, pod.restart_count) == (before.uid, 1, 0)
    await rig.env(A, A="2")
    updated = await rig.settled(A, Phase.RUNNING)
    made = rig.observe(updated).pod
    assert made is not None
    assert made.generation == updated.generation == 4
    rig.check_history()


async def test_an_update_of_a_stopped_sandbox_waits_for_its_start(rig: Rig) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    changed = await rig.update(A, args=("another",))
    assert changed.status.phase is Phase.STOPPED
    stopped = await rig.settled(A, Phase.STOPPED)
    assert rig.observe(stopped).pod is None
    await rig.begin(A, Phase.RUNNING)
    after = await rig.settled(A, Phase.RUNNING)
    assert (after.spec.args, after.generation) == (("another",), 4)
    rig.check_history()


@pytest.mark.fault(29)
@pytest.mark.fault(66)
async def test_a_good_update_of_the_spec_recovers_from_a_bad_one_without_help(rig: Rig) -> None:
    await rig.create(A)
    running = await rig.settled(A, Phase.RUNNING)
    await rig.ground.crash(running)
    await rig.update(A, args=("bad",))
    await rig.until(A, lambda one: one.status.phase is Phase.ERROR and one.generation == 2)
    await rig.ground.heal(running)
    await rig.update(A, args=("good",))
    after = await rig.settled(A, Phase.RUNNING)
    assert (after.generation, after.status.restart_count) == (3, 0)


async def test_delete_leaves_nothing(rig: Rig) -> None:
    await rig.create(A, {"A": "1"})
    await rig.settled(A, Phase.RUNNING)
    await rig.delete(A)
    gone = await rig.settled(A, Phase.TERMINATED)
    observed = rig.observe(gone)
    assert (observed.workload, observed.pod, observed.volume) == (None, None, None)
    assert gone.status.reason is Reason.DELETED
    assert await rig.store.read(lambda reader: reader.env(gone.key)) == {}
    again = await rig.delete(A)
    assert again == gone
    rig.check_history()


async def test_a_kept_volume_is_adopted_when_asked_to_and_refused_when_not(rig: Rig) -> None:
    await rig.create(A)
    first = await rig.settled(A, Phase.RUNNING)
    await rig.delete(A, keep=True)
    gone = await rig.settled(A, Phase.TERMINATED)
    assert gone.status.reason is Reason.VOLUME_KEPT
    with pytest.raises(errors.FailedPrecondition) as caught:
        await rig.create(A)
    assert caught.value.reason == "VOLUME_KEPT"
    await rig.create(A, adopt=True)
    second = await rig.settled(A, Phase.RUNNING)
    assert second.uid != first.uid
    assert second.volume_uid == first.volume_uid
    await rig.delete(A)
    gone = await rig.settled(A, Phase.TERMINATED)
    assert rig.observe(gone).volume is None
    with pytest.raises(errors.FailedPrecondition) as caught:
        await rig.create(A, adopt=True)
    assert caught.value.reason == "NO_VOLUME_TO_ADOPT"


@pytest.mark.find(25)
async def test_an_adopted_volume_is_reported_as_it_is_and_refused_where_it_differs(rig: Rig) -> None:
    await rig.create(A)
    first = await rig.settled(A, Phase.RUNNING)
    await rig.delete(A, keep=True)
    await rig.settled(A, Phase.TERMINATED)
    kept = first.spec.storage
    for other in (
        dataclasses.replace(kept, size="20Gi"),
        dataclasses.replace(kept, storage_class="another"),
        dataclasses.replace(kept, access_mode="ReadWriteMany"),
    ):
        with pytest.raises(errors.FailedPrecondition) as caught:
            await rig.create(A, adopt=True, spec=dataclasses.replace(rig.ground.spec(), storage=other))
        assert caught.value.reason == "VOLUME_DIFFERS"
    same = dataclasses.replace(kept, size="5120Mi")
    await rig.create(A, adopt=True, spec=dataclasses.replace(rig.ground.spec(), storage=same))
    second = await rig.settled(A, Phase.RUNNING)
    assert (second.spec.storage, second.volume_uid) == (kept, first.volume_uid)
    assert second.status.volume == first.status.volume


@pytest.mark.find(25)
@pytest.mark.parametrize("restarted", [False, True])
async def test_delete_without_keep_volume_removes_a_kept_volume(rig: Rig, restarted: bool) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    await rig.delete(A, keep=True)
    kept = await rig.settled(A, Phase.TERMINATED)
    assert await rig.delete(A, keep=True) == kept
    if restarted:
        await rig.restart()
        await rig.until(A, lambda _: not rig.stale)
    going = await rig.delete(A)
    assert (going.status.phase, going.status.reason, going.generation) == (
        Phase.TERMINATING,
        Reason.ACCEPTED,
        kept.generation + 1,
    )
    with pytest.raises(errors.AlreadyExists):
        await rig.create(A, adopt=True)
    gone = await rig.settled(A, Phase.TERMINATED)
    assert gone.status.reason is Reason.DELETED
    assert rig.observe(gone).volume is None
    assert await rig.delete(A) == gone
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    rig.check_history()


@pytest.mark.find(25)
async def test_delete_without_keep_volume_decides_about_the_volume_while_the_sandbox_goes(rig: Rig) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    await rig.delete(A, keep=True)
    await rig.delete(A)
    await rig.delete(A, keep=True)
    gone = await rig.settled(A, Phase.TERMINATED)
    assert gone.status.reason is Reason.DELETED
    assert rig.observe(gone).volume is None


async def test_a_restart_of_the_service_adopts_what_runs(rig: Rig) -> None:
    await rig.create(A)
    await rig.create("suite-b")
    await rig.settled(A, Phase.RUNNING)
    await rig.settled("suite-b", Phase.RUNNING)
    await rig.begin("suite-b", Phase.STOPPED)
    await rig.settled("suite-b", Phase.STOPPED)
    before = await rig.get(A)
    await rig.restart()
    after = await rig.settled(A, Phase.RUNNING)
    await rig.settled("suite-b", Phase.STOPPED)
    pod = rig.observe(after).pod
    assert pod is not None
    assert pod.restart_count == 0
    assert after.volume_uid == before.volume_uid
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)


async def test_mutations_in_a_row_end_in_the_last(rig: Rig) -> None:
    await rig.create(A)
    for phase in (Phase.STOPPED, Phase.RUNNING, Phase.STOPPED, Phase.RUNNING, Phase.STOPPED):
        await rig.begin(A, phase)
    await rig.settled(A, Phase.STOPPED)
    await rig.begin(A, Phase.RUNNING)
    await rig.delete(A)
    gone = await rig.settled(A, Phase.TERMINATED)
    assert rig.observe(gone).volume is None
    rig.check_history()


@pytest.mark.fault(11)
async def test_replica_that_does_not_hold_the_namespace_changes_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.create(A)
    running = await rig.settled(A, Phase.RUNNING)
    before = rig.observe(running)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(rig.engine, "_held", lambda _namespace: 0)
        for act in (
            rig.engine.apply(dataclasses.replace(running, generation=2), {"A": "2"}, 0),
            rig.engine.touch(running),
            rig.engine.remove_workload(running),
            rig.engine.delete(running),
        ):
            with pytest.raises(engines.NotHeld):
                await act
        await rig.begin(A, Phase.STOPPED)
        await rig.until(A, lambda _: rig.reconciler.outcomes["not_held", ""] > 0 and rig.reconciler.backlog == 0)
        assert rig.observe(running) == before
    rig.reconciler.wake(rig.key(A))
    await rig.settled(A, Phase.STOPPED)


async def test_act_that_began_under_an_earlier_epoch_changes_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.create(A)
    running = await rig.settled(A, Phase.RUNNING)
    before = rig.observe(running)
    epochs = iter((1, 2))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(rig.engine, "_held", lambda _namespace: next(epochs))
        with pytest.raises(engines.NotHeld):
            await rig.engine.apply(dataclasses.replace(running, generation=2), {"A": "2"}, 0)
    assert rig.observe(running) == before
