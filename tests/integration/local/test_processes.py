"""Processes of the local engine: whole groups, whose they are, and what becomes of them without the service."""

import asyncio
import errno
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from sandbox_server.domain.sandbox import Phase, Reason
from sandbox_server.engines.local import isolation, processes, unit

from tests import samples
from tests.integration.local import as_nobody
from tests.integration.local.conftest import LocalRig

A = "process-a"
SERVE = "exec sleep MARK"


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


async def test_a_program_that_does_not_end_when_asked_is_killed(rig: LocalRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit, "GRACE", 0.3)
    await rig.create(A, spec=rig.ground.script("trap '' TERM; echo >up; sleep MARK; sleep MARK"))
    await rig.there((rig.ground.home(A) / "up").exists)
    began = time.monotonic()
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    assert rig.ground.marked() == []
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("rig", ["isolated"], indirect=True)
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
        ("kill -9 $$", 137, "Signal 9"),
        ("kill -15 $$", 143, "Signal 15"),
        ("exec /no/such/program", 127, "Error"),
    ],
)
async def test_how_a_process_ended_is_told(rig: LocalRig, script: str, code: int, word: str) -> None:
    await rig.create(A, spec=rig.ground.script(f"{script}; # MARK"))
    told = await rig.until(A, lambda one: one.status.last_exit is not None)
    assert told.status.last_exit is not None
    assert (told.status.last_exit.code, told.status.last_exit.reason) == (code, word)


async def test_a_crash_loop_waits_longer_each_time(rig: LocalRig) -> None:
    await rig.create(A, spec=rig.ground.script("date +%s.%N >>starts; exit 3"))
    starts = rig.ground.home(A) / "starts"
    failed = await rig.until(A, lambda one: one.status.restart_count == 4)
    assert (failed.status.phase, failed.status.reason) == (Phase.ERROR, Reason.CRASH_LOOP)
    at = [float(line) for line in starts.read_text().split()]
    for number, (one, following) in enumerate(itertools.pairwise(at)):
        assert following - one >= unit.BACKOFF_FIRST * 2**number
    await rig.restart()
    again = await rig.until(A, lambda one: one.status.restart_count == 5)
    assert again.status.reason is Reason.CRASH_LOOP


async def test_ends_far_apart_are_restarts_and_no_crash_loop(rig: LocalRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit, "STEADY", 0.1)
    await rig.create(A, spec=rig.ground.script("sleep 0.3; exit 3"))
    await rig.until(A, lambda one: one.status.restart_count == 3)
    assert Reason.CRASH_LOOP not in {one.status.reason for one in rig.history}
    assert Reason.RESTARTING in {one.status.reason for one in rig.history}


async def test_a_command_that_cannot_be_started_is_told_and_a_stop_still_works(rig: LocalRig) -> None:
    words = ("/bin/sh", "-c", "exit 0", *["x" * 32_000] * 250)
    await rig.create(A, spec=samples.spec(command=words[:3], args=words[3:]))
    failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    assert failed.status.reason is Reason.CONTAINER_CONFIG
    assert "Argument list too long" in failed.status.message
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)


async def test_the_port_and_the_home_are_given_and_not_the_callers_to_change(rig: LocalRig) -> None:
    made = await rig.create(
        A, {"PORT": "1", "HOME": "/", "MINE": "a b\nc"}, spec=rig.ground.script(f"env -0 >env; {SERVE}")
    )
    await rig.there(rig.ground.marked)
    env = dict(one.split("=", 1) for one in (rig.ground.home(A) / "env").read_text().split("\0") if one)
    assert env["PORT"] == str(made.addresses.ports[0]) == made.addresses.public_url.rpartition(":")[2]
    assert env["HOME"] == (isolation.HOME if rig.ground.config.isolate else str(rig.ground.home(A)))
    assert env["MINE"] == "a b\nc"
    assert not any(name.startswith(("PYTEST", "SANDBOX")) for name in env)


async def test_what_fell_while_the_service_was_down_is_told_once(rig: LocalRig) -> None:
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


async def test_wishes_made_while_the_service_was_down_find_the_process(rig: LocalRig) -> None:
    for name in ("down-a", "down-b", "down-c"):
        await rig.create(name, spec=rig.ground.script(SERVE))
    await rig.there(lambda: len(rig.ground.marked()) == 3)
    rig._task.cancel()
    await asyncio.gather(rig._task, return_exceptions=True)
    await rig.begin("down-a", Phase.STOPPED)
    await rig.delete("down-b")
    await rig.env("down-c", A="1")
    await rig.restart()
    await rig.settled("down-a", Phase.STOPPED)
    await rig.settled("down-b", Phase.TERMINATED)
    await rig.settled("down-c", Phase.RUNNING)
    await rig.there(lambda: len(rig.ground.marked()) == 1)


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
            file.write_text(file.read_text().replace(str(pid), str(other.pid)))
            await rig.start()
            await rig.until(A, lambda one: one.status.restart_count == 1 and one.status.phase is Phase.RUNNING)
            await rig.begin(A, Phase.STOPPED)
            await rig.settled(A, Phase.STOPPED)
            assert other.poll() is None
        finally:
            other.kill()


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


async def test_a_terminal_program_that_came_later_does_no_harm(rig: LocalRig) -> None:
    await rig.create(A)
    running = await rig.settled(A, Phase.RUNNING)
    object.__setattr__(rig.ground.config, "terminal", "/bin/sleep {port}")
    await rig.restart()
    await rig.settled(A, Phase.RUNNING)
    await rig.ground.crash(running)
    await rig.until(A, lambda one: one.status.restart_count > 0)
    await rig.ground.heal(running)
    await rig.settled(A, Phase.RUNNING)


async def test_an_engine_that_is_open_can_be_asked_at_once(rig: LocalRig) -> None:
    await rig.create(A)
    running = await rig.settled(A, Phase.RUNNING)
    await rig.stop()
    engine = rig.ground.engine()
    await engine.open([running], lambda _: None)
    observed = engine.observe(running)
    await engine.close()
    assert engine.name == "local"
    assert observed.pod is not None
    assert observed.pod.ready
    await rig.start()


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


async def test_a_process_whose_identity_cannot_be_written_never_begins(
    rig: LocalRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit, "BACKOFF_MOST", 0.2)
    write = Path.write_text

    def full(path: Path, text: str) -> int:
        if path.suffix == ".process":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, text)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        await rig.create(A, spec=rig.ground.script(f"echo >up; {SERVE}"))
        failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    assert failed.status.reason is Reason.CONTAINER_CONFIG
    assert "No space left" in failed.status.message
    assert rig.ground.marked() == []
    assert psutil.STATUS_ZOMBIE not in {one.status() for one in psutil.Process().children()}
    await rig.settled(A, Phase.RUNNING)
    assert failed.status.restart_count == 0


@pytest.mark.parametrize("moment", ["posix_spawn", "write"])
async def test_a_service_killed_in_the_middle_of_a_start_leaves_no_second_process(rig: LocalRig, moment: str) -> None:
    home = rig.ground.home(A)
    home.mkdir(parents=True)
    # What a service does, up to where it is killed: after the fork, or when the identity is on disk.
    script = f"""
import os
from pathlib import Path
from sandbox_server.engines.local import isolation, processes
spawn = os.posix_spawn
def killed(*args, **options):
    if "{moment}" == "posix_spawn":
        spawn(*args, **options)
    os.kill(os.getpid(), 9)
os.{moment} = killed
words, home = ["/bin/sleep", {rig.ground.mark!r}], Path({str(home)!r})
launch = isolation.isolated(words, {{}}, home, home) if {rig.ground.config.isolate} else isolation.plain(words, {{}}, home)
processes.start(Path({str(rig.ground.folder(A) / "main")!r}), launch, processes.Attempt("me", 1))
"""
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script])
    assert done.returncode == -signal.SIGKILL
    found = processes.find(rig.ground.folder(A) / "main", "me")
    assert (found is not None) == (moment == "write")
    await asyncio.sleep(0.3)
    assert found is None or not found.alive
    assert rig.ground.marked() == []


def test_a_service_that_is_not_roots_does_all_the_same() -> None:
    # Not in pytest's own folder, which is its user's alone.
    with tempfile.TemporaryDirectory() as folder:
        if os.geteuid() == 0:
            os.chown(folder, as_nobody.NOBODY, as_nobody.NOBODY)
        words = [sys.executable, "-m", "tests.integration.local.as_nobody", folder]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
