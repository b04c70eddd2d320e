"""Processes outlive the service: the next service finds and reports its own, and starts none twice."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest
from sandbox_server.domain.phase import Phase
from sandbox_server.engines import local
from sandbox_server.engines.local import processes

from tests.support.local import BOTH, LocalRig

pytestmark = BOTH

A = "process-a"
SERVE = "exec sleep MARK"


@pytest.mark.slow
async def test_crash_while_the_service_was_down_is_reported_once(rig: LocalRig) -> None:
    await rig.create(A)
    running = await rig.settled(A, Phase.RUNNING)
    await rig.stop()
    await rig.ground.crash(running)
    exit_ = rig.ground.folder(A) / "main.exit"
    await rig.there(lambda: exit_.exists() and "exit-code" in exit_.read_text())
    await rig.ground.heal(running)
    await rig.start()
    after = await rig.until(A, lambda one: one.status.restart_count == 1 and one.status.phase is Phase.RUNNING)
    assert after.status.last_exit is not None
    assert after.status.last_exit.code == 3
    await rig.restart()
    await rig.settled(A, Phase.RUNNING)
    assert (await rig.get(A)).status.restart_count == 1


@pytest.mark.slow
async def test_restart_sends_no_event_again(rig: LocalRig) -> None:
    for name in (A, "process-b"):
        await rig.create(name)
        await rig.settled(name, Phase.RUNNING)
    await rig.begin("process-b", Phase.STOPPED)
    await rig.settled("process-b", Phase.STOPPED)
    told = len(rig.history)
    await rig.restart()
    for name in (A, "process-b"):
        unit = rig.engine._units[rig.key(name)]  # type: ignore[attr-defined]
        await rig.there(lambda unit=unit: unit.env is not None or not unit.replicas)
    await asyncio.sleep(0.5)
    assert len(rig.history) == told


@pytest.mark.slow
async def test_mutations_made_while_the_service_was_down_find_the_process(rig: LocalRig) -> None:
    for name in ("down-a", "down-b", "down-c"):
        await rig.create(name, spec=rig.ground.script(SERVE))
    await rig.there(lambda: len(rig.ground.marked()) == 3)
    await rig.suspend()
    await rig.begin("down-a", Phase.STOPPED)
    await rig.delete("down-b")
    await rig.env("down-c", A="1")
    await rig.restart()
    await rig.settled("down-a", Phase.STOPPED)
    await rig.settled("down-b", Phase.TERMINATED)
    await rig.settled("down-c", Phase.RUNNING)
    await rig.there(lambda: len(rig.ground.marked()) == 1)


@pytest.mark.slow
async def test_a_pid_that_became_somebody_elses_is_left_alone(rig: LocalRig) -> None:
    await rig.create(A, spec=rig.ground.script(SERVE))
    await rig.settled(A, Phase.RUNNING)
    await rig.stop()
    pid = rig.ground.leader(A)
    rig.ground.end()
    await rig.there(lambda: not rig.ground.marked())
    with subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True) as other:
        try:
            file = rig.ground.folder(A) / "main.process"
            recorded = json.loads(file.read_text())
            assert recorded["pid"] == pid
            file.write_text(json.dumps(recorded | {"pid": other.pid}))
            await rig.start()
            await rig.until(A, lambda one: one.status.restart_count == 1 and one.status.phase is Phase.RUNNING)
            await rig.begin(A, Phase.STOPPED)
            await rig.settled(A, Phase.STOPPED)
            assert other.poll() is None
        finally:
            other.kill()


@pytest.mark.slow
async def test_after_another_boot_no_pid_is_believed(rig: LocalRig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.create(A, spec=rig.ground.script(SERVE))
    await rig.there(rig.ground.marked)
    (before,) = rig.ground.marked()
    await rig.stop()
    monkeypatch.setattr(processes, "BOOT", "another")
    await rig.start()
    await rig.settled(A, Phase.RUNNING)
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    assert rig.ground.marked() == [before]
    os.kill(before, signal.SIGKILL)


async def test_an_engine_that_is_open_can_be_asked_at_once(rig: LocalRig) -> None:
    await rig.create(A)
    running = await rig.settled(A, Phase.RUNNING)
    await rig.stop()
    chosen = rig.ground.settings
    engine = local.LocalEngine(chosen.local, chosen.data_dir, chosen.pace)
    await engine.open([running], lambda _: None, lambda _: 1)
    observed = engine.observe(running)
    await engine.close()
    assert observed.pod is not None
    assert observed.pod.ready
    await rig.start()


@pytest.mark.slow
async def test_a_closed_service_leaves_what_runs_running(rig: LocalRig) -> None:
    await rig.create(A, spec=rig.ground.script(SERVE))
    await rig.settled(A, Phase.RUNNING)
    await rig.there(rig.ground.marked)
    before = rig.ground.leader(A), rig.ground.marked()
    await rig.stop()
    assert (rig.ground.leader(A), rig.ground.marked()) == before
    told = len(rig.history)
    await rig.start()
    await rig.settled(A, Phase.RUNNING)
    assert (rig.ground.leader(A), rig.ground.marked()) == before
    assert {one.status.phase for one in rig.history[told:]} <= {Phase.RUNNING}


@pytest.mark.parametrize("moment", ["posix_spawn", "write"])
@pytest.mark.slow
async def test_a_service_killed_in_the_middle_of_a_start_leaves_no_second_process(rig: LocalRig, moment: str) -> None:
    home = rig.ground.home(A)
    home.mkdir(parents=True)
    # What a service does, up to where it is killed: after the fork, or when the identity is on disk.
    script = f"""
import os
from pathlib import Path
from sandbox_server.engines.local import launch, processes
spawn = os.posix_spawn
def killed(*args, **options):
    if "{moment}" == "posix_spawn":
        spawn(*args, **options)
    os.kill(os.getpid(), 9)
os.{moment} = killed
words, home = ["/bin/sleep", {rig.ground.mark!r}], Path({str(home)!r})
made = launch.isolated(words, {{}}, home, home) if {rig.ground.isolates} else launch.plain(words, {{}}, home)
processes.Process(Path({str(rig.ground.folder(A) / "main")!r}), "me", 1).start(made)
"""
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script])
    assert done.returncode == -signal.SIGKILL
    found = processes.find(rig.ground.folder(A) / "main", "me")
    assert bool(found.pid) == (moment == "write")
    await rig.there(lambda: not found.alive)
    await asyncio.sleep(0.3)
    assert rig.ground.marked() == []
