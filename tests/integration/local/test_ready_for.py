"""A process that ends soon after its start is never RUNNING."""

from pathlib import Path

import pytest
from sandbox_server.domain.phase import Phase, Reason

from tests.support.local import LocalGround, LocalRig
from tests.support.rig import A

LONG, SHORT = 60.0, 1.0
"""Values of `ready_for`, in seconds. `LONG`: a process of a crash loop ends before, even if that is noticed late. `SHORT`: a
process that stays is soon ready."""

pytestmark = [pytest.mark.find(9), pytest.mark.fault(61)]


@pytest.mark.parametrize("lives", [0.0, 0.4])
async def test_process_that_ends_at_once_is_a_crash_loop_throughout(tmp_path: Path, lives: float) -> None:
    rig = LocalRig(LocalGround(tmp_path, isolate=False), tmp_path, ready_for=LONG)
    await rig.start()
    try:
        await rig.create(A, spec=rig.ground.script(f"sleep {lives}; test -e good || exit 7; sleep 1000"))
        looping = await rig.until(A, lambda one: one.status.restart_count >= 3)
        phases = [one.status.phase for one in rig.history]
        assert Phase.RUNNING not in phases
        assert set(phases[phases.index(Phase.ERROR) :]) == {Phase.ERROR}
        assert (looping.status.reason, looping.status.observed_generation) == (Reason.CRASH_LOOP, 0)
        (rig.ground.home(A) / "good").touch()
        rig.settings["ready_for"] = SHORT
        await rig.restart()
        await rig.settled(A, Phase.RUNNING)
        assert {one.status.phase for one in rig.history[len(phases) :]} <= {Phase.ERROR, Phase.RUNNING}
    finally:
        await rig.delete(A)
        await rig.settled(A, Phase.TERMINATED)
        await rig.stop()


@pytest.mark.slow
async def test_start_with_a_probe_is_not_slower(tmp_path: Path) -> None:
    rig = LocalRig(LocalGround(tmp_path, isolate=False), tmp_path, ready_for=LONG)
    await rig.start()
    try:
        script = "exec python3 -m http.server $PORT --bind 127.0.0.1"
        await rig.create(A, spec=rig.ground.script(script, http_path="/"))
        await rig.settled(A, Phase.RUNNING, within=10)
    finally:
        await rig.delete(A)
        await rig.settled(A, Phase.TERMINATED)
        await rig.stop()
