"""Processes of the local engine: whole groups, how they end, and when they are started again."""

import asyncio
import contextlib
import dataclasses
import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.local import launch

from tests.integration.local import as_nobody
from tests.support import samples
from tests.support.local import BOTH, LocalRig
from tests.support.rig import LONG_ALIVE
from tests.support.service import without_coverage

A = "process-a"
SERVE = "exec sleep MARK"


@BOTH
async def test_delete_ends_children_that_were_forked_twice(rig: LocalRig) -> None:
    script = "(sleep MARK & sleep MARK &) ; (trap '' TERM; sleep MARK; sleep MARK) & exec sleep MARK"
    await rig.create(A, spec=rig.ground.script(script))
    await rig.settled(A, Phase.RUNNING)
    await rig.there(lambda: len(rig.ground.marked()) == 4)
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)
    assert rig.ground.marked() == []
    assert not rig.ground.folder(A).exists()


async def test_stop_asks_the_program_first_and_waits_for_it(rig: LocalRig) -> None:
    script = "trap 'sleep 0.5; echo saved >work; exit 0' TERM; echo >up; while :; do sleep 0.05; done"
    await rig.create(A, spec=rig.ground.script(script))
    await rig.there((rig.ground.home(A) / "up").exists)
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    assert (rig.ground.home(A) / "work").read_text() == "saved\n"


@pytest.mark.fault(65)
@pytest.mark.find(15)
@pytest.mark.parametrize("seconds", [0, 1])
@BOTH
@pytest.mark.slow
async def test_a_program_that_ignores_sigterm_is_killed_after_the_grace_period_of_its_spec(
    rig: LocalRig, seconds: int
) -> None:
    spec = rig.ground.script("trap '' TERM; echo >up; sleep MARK; sleep MARK")
    await rig.create(A, spec=dataclasses.replace(spec, grace_period_seconds=seconds))
    await rig.there((rig.ground.home(A) / "up").exists)
    files = rig.ground.folder(A) / "main.process"
    pid = json.loads(files.read_text())["pid"]
    began = time.monotonic()
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    assert rig.ground.marked() == []
    # Less than the ten seconds that it would have by default.
    assert seconds <= time.monotonic() - began < 10
    said = f"the pod is being removed: waits for the process to end, at most {seconds} s"
    assert said in [one.status.message for one in rig.history]
    # Neither a zombie keeps the pid, nor is another process that has it later taken for this one.
    assert not files.exists()
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("isolation", ["isolated"])
@pytest.mark.slow
async def test_when_bubblewrap_alone_is_killed_the_next_process_starts_after_the_last_has_gone(rig: LocalRig) -> None:
    # Memory that takes the kernel a while to give back, and a lock that tells two processes apart.
    lines = "import fcntl,os,time; held=open('lock','w'); fcntl.flock(held,fcntl.LOCK_EX|fcntl.LOCK_NB)"
    hog = f"/usr/bin/python3 -c \"{lines}; m=b'x'*300_000_000; open('up','w'); time.sleep(1000)\" || exit 7"
    await rig.create(A, spec=rig.ground.script(f"{hog}; # MARK"))
    for times in (1, 2):
        await rig.there((rig.ground.home(A) / "up").exists)
        (rig.ground.home(A) / "up").unlink()
        os.kill(rig.ground.leader(A), signal.SIGKILL)
        await rig.until(A, lambda one, times=times: one.status.restart_count == times)
    await rig.there((rig.ground.home(A) / "up").exists)
    told = await rig.settled(A, Phase.RUNNING)
    assert told.status.last_exit is not None
    assert (told.status.last_exit.code, told.status.restart_count) == (137, 2)


@pytest.mark.slow
async def test_a_process_killed_at_any_moment_of_its_start_leaves_nothing(rig: LocalRig) -> None:
    spec = rig.ground.script("(sleep MARK &); exec sleep MARK")
    for moment in range(30):
        name = f"moment-{moment}"
        await rig.create(name, spec=spec)
        await rig.there((rig.ground.folder(name) / "main.process").exists)
        await asyncio.sleep(moment / 1000)
        await rig.delete(name)
    for moment in range(30):
        await rig.settled(f"moment-{moment}", Phase.TERMINATED)
    assert rig.ground.marked() == []


@pytest.mark.parametrize(
    ("script", "code", "word"),
    [
        ("exit 0", 0, "Completed"),
        ("exit 42", 42, "Error"),
        ("exit 200", 200, "Error"),
        ("kill -9 $$", 137, "Signal 9"),
        ("kill -15 $$", 143, "Signal 15"),
        ("exec /no/such/program", 127, "Error"),
    ],
)
async def test_exit_of_a_process_is_reported(rig: LocalRig, script: str, code: int, word: str) -> None:
    await rig.create(A, spec=rig.ground.script(f"{script}; # MARK"))
    told = await rig.until(A, lambda one: one.status.last_exit is not None)
    assert told.status.last_exit is not None
    assert (told.status.last_exit.code, told.status.last_exit.reason) == (code, word)


@pytest.mark.slow
async def test_a_crash_loop_waits_longer_each_time(rig: LocalRig, pace: Pace) -> None:
    await rig.create(A, spec=rig.ground.script("date +%s.%N >>starts; exit 3"))
    starts = rig.ground.home(A) / "starts"

    def crashed(one: Sandbox, times: int) -> bool:
        # Between two waits it runs for a moment, and is NOT_READY then.
        status = one.status
        return status.restart_count >= times and (status.phase, status.reason) == (Phase.ERROR, Reason.CRASH_LOOP)

    failed = await rig.until(A, lambda one: crashed(one, 4))
    at = [float(line) for line in starts.read_text().split()]
    for number, (one, following) in enumerate(itertools.pairwise(at)):
        assert following - one >= pace.local_restart_first * 2**number
    await rig.restart()
    await rig.until(A, lambda one: crashed(one, failed.status.restart_count + 1))


@pytest.mark.slow
async def test_ends_far_apart_are_restarts_and_no_crash_loop(rig: LocalRig, pace: Pace) -> None:
    rig.settings["base_pace"] = dataclasses.replace(pace, local_steady=0.1)
    await rig.restart()
    await rig.create(A, spec=rig.ground.script("sleep 0.3; exit 3"))
    await rig.until(A, lambda one: one.status.restart_count >= 3)
    assert Reason.CRASH_LOOP not in {one.status.reason for one in rig.history}
    assert Reason.RESTARTING in {one.status.reason for one in rig.history}


@BOTH
@pytest.mark.slow
async def test_process_that_cannot_start_is_reported_and_can_be_stopped(rig: LocalRig) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    # In the way of the log, which becomes the former one.
    former = rig.ground.folder(A) / "main.former.log"
    former.mkdir()
    await rig.env(A, B="2")
    failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    assert failed.status.reason is Reason.CONTAINER_CONFIG
    assert "Is a directory" in failed.status.message
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    former.rmdir()
    await rig.begin(A, Phase.RUNNING)
    await rig.settled(A, Phase.RUNNING)


@pytest.mark.parametrize("pace", [LONG_ALIVE])
async def test_missing_command_is_never_running_and_its_exit_code_is_reported(rig: LocalRig) -> None:
    await rig.create(A, spec=samples.spec(command=("/no/such/command",)))
    failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    assert failed.status.reason is Reason.CRASH_LOOP
    assert failed.status.last_exit is not None
    assert failed.status.last_exit.code == 127
    assert Phase.RUNNING not in {one.status.phase for one in rig.history}


async def test_the_port_and_the_home_are_given_and_not_the_callers_to_change(rig: LocalRig) -> None:
    made = await rig.create(
        A, {"PORT": "1", "HOME": "/", "MINE": "a b\nc", "go": "mine"}, spec=rig.ground.script(f"env -0 >env; {SERVE}")
    )
    await rig.there(rig.ground.marked)
    env = dict(one.split("=", 1) for one in (rig.ground.home(A) / "env").read_text().split("\0") if one)
    assert env["PORT"] == str(made.addresses.ports[0]) == made.addresses.public_url.rpartition(":")[2]
    assert env["HOME"] == (launch.HOME if rig.ground.isolates else str(rig.ground.home(A)))
    assert (env["MINE"], env["go"]) == ("a b\nc", "mine")
    assert not any(name.startswith(("PYTEST", "SANDBOX")) for name in env)


@pytest.mark.slow
async def test_a_terminal_program_that_came_later_does_no_harm(rig: LocalRig) -> None:
    await rig.create(A)
    running = await rig.settled(A, Phase.RUNNING)
    rig.ground.settings = rig.ground.settings.model_copy(update={"local_terminal": "/bin/sleep {port}"})
    await rig.restart()
    await rig.settled(A, Phase.RUNNING)
    await rig.ground.crash(running)
    await rig.until(A, lambda one: one.status.restart_count > 0)
    await rig.ground.heal(running)
    await rig.settled(A, Phase.RUNNING)


@pytest.mark.slow
async def test_stop_is_reported_even_if_the_disk_is_read_only(rig: LocalRig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", read_only)
        await rig.begin(A, Phase.STOPPED)
        await rig.settled(A, Phase.STOPPED, within=10)
        await rig.begin(A, Phase.RUNNING)
        failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
        assert "Read-only file system" in failed.status.message
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)


def zombies() -> set[int]:
    found = set()
    for one in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if one.status() == psutil.STATUS_ZOMBIE:
                found.add(one.pid)
    return found


@BOTH
@pytest.mark.slow
async def test_a_process_whose_identity_cannot_be_written_never_begins(
    rig: LocalRig, pace: Pace, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.settings["base_pace"] = dataclasses.replace(pace, local_restart_most=0.2)
    await rig.restart()
    write = Path.write_text

    def full(path: Path, text: str) -> int:
        if path.suffix == ".process":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, text)

    before = zombies()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        await rig.create(A, spec=rig.ground.script(f"echo >up; {SERVE}"))
        failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
        assert failed.status.reason is Reason.CONTAINER_CONFIG
        assert "No space left" in failed.status.message
        assert rig.ground.marked() == []
        assert not (rig.ground.home(A) / "up").exists()
        # One that was just started again may not have been waited for yet.
        await rig.there(lambda: zombies() <= before)
    await rig.settled(A, Phase.RUNNING)
    assert failed.status.restart_count == 0


@pytest.mark.slow
def test_a_service_that_is_not_roots_does_all_the_same() -> None:
    # Not in pytest's own folder, which is its user's alone.
    with tempfile.TemporaryDirectory() as folder:
        if os.geteuid() == 0:
            os.chown(folder, as_nobody.NOBODY, as_nobody.NOBODY)
        words = [sys.executable, "-m", "tests.integration.local.as_nobody", folder]
        done = subprocess.run(words, env=without_coverage(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
