"""An update of the spec on the local engine: another process, the same home."""

import pytest
from sandbox_server.domain.phase import Phase, Reason

from tests.support.local import LocalRig

A = "update-a"


async def test_an_updated_command_runs_in_the_same_home(rig: LocalRig) -> None:
    await rig.create(A, spec=rig.ground.script("echo one >>work; exec sleep MARK"))
    before = await rig.settled(A, Phase.RUNNING)
    leader = rig.ground.leader(A)
    after = rig.ground.script("echo two >>work; exec sleep MARK")
    await rig.update(A, command=after.command)
    updated = await rig.settled(A, Phase.RUNNING)
    assert (rig.ground.home(A) / "work").read_text() == "one\ntwo\n"
    assert rig.ground.leader(A) != leader
    assert len(rig.ground.marked()) == 1
    assert updated.addresses == before.addresses


@pytest.mark.slow
async def test_a_command_that_does_not_exist_is_reported_and_repaired_by_the_next_update(rig: LocalRig) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    await rig.update(A, command=("/no/such/program",))
    failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    assert failed.status.reason in (Reason.CRASH_LOOP, Reason.CONTAINER_CONFIG)
    await rig.update(A, command=rig.ground.spec().command)
    repaired = await rig.settled(A, Phase.RUNNING)
    assert (repaired.generation, repaired.status.restart_count) == (3, 0)
