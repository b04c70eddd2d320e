"""What a sandbox of the local engine prints: its log is bounded, and has the last words."""

import asyncio
import contextlib
import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from sandbox_server.domain.phase import Phase
from sandbox_server.engines.local import output

from tests.support.local import LocalRig
from tests.support.rig import LONG_ALIVE

A = "log-a"
pytestmark = pytest.mark.find(44)


def logs(rig: LocalRig) -> list[Path]:
    return [rig.ground.folder(A) / name for name in ("main.log", "main.log.1")]


def files(rig: LocalRig) -> dict[Path, os.stat_result]:
    """The files of the log."""
    found, (log, _) = {}, logs(rig)
    for one in (log, *(output.numbered(log, number) for number in output.numbers(log))):
        with contextlib.suppress(FileNotFoundError):
            found[one] = one.stat()
    return found


def size(rig: LocalRig) -> int:
    """Of all files of the log at one moment."""
    while True:
        found = files(rig)
        # A file may be renamed at any moment, and would be counted twice.
        if {path: one.st_ino for path, one in found.items()} == {path: one.st_ino for path, one in files(rig).items()}:
            return sum(one.st_size for one in found.values())


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def text(log: Path) -> str | None:
    """What is in a log; None if there is none, as before it is begun anew."""
    with contextlib.suppress(FileNotFoundError):
        return log.read_text()
    return None


def pump_of(rig: LocalRig) -> int:
    return int(json.loads((rig.ground.folder(A) / "main.process").read_text())["pump"])


@pytest.mark.slow
async def test_a_sandbox_that_prints_without_end_has_a_bounded_log(rig: LocalRig) -> None:
    await rig.create(A, spec=rig.ground.script("yes 'a line of some length'"))
    await rig.settled(A, Phase.RUNNING)
    await rig.there(lambda: output.numbers(logs(rig)[0]), within=30)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        assert size(rig) <= 2 * output.MOST
        await asyncio.sleep(0.01)
    # The process goes on without a service, and the next service finds it.
    await rig.stop()
    await asyncio.sleep(1)
    assert size(rig) <= 2 * output.MOST
    await rig.start()
    again = await rig.settled(A, Phase.RUNNING)
    assert again.status.restart_count == 0
    pumping = pump_of(rig)
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    await rig.there(lambda: has_ended(pumping))


@pytest.mark.parametrize("lines", [1, 100, 400_000])
async def test_the_last_words_are_those_printed_last_however_much_came_before(rig: LocalRig, lines: int) -> None:
    await rig.create(A, spec=rig.ground.script(f"seq 1 {lines}; echo 'the last words'; exit 3"))
    ended = await rig.until(A, lambda one: one.status.last_exit is not None and one.status.restart_count > 1)
    assert ended.status.last_exit is not None
    assert ended.status.last_exit.message.endswith(f"{lines}\\nthe last words")


def test_words_come_from_both_files_where_the_log_has_just_been_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "main.log.1").write_bytes(b"a" * 10_000 + b"the end of ")
    (tmp_path / "main.log").write_bytes(b"one line")
    words = output.last(tmp_path / "main.log")
    assert len(words) == output.WORDS_MOST
    assert words.endswith("athe end of one line")


async def test_what_was_printed_is_in_the_log_at_once(rig: LocalRig) -> None:
    await rig.create(A, spec=rig.ground.script("printf 'no line end'; exec sleep MARK"))
    await rig.there(lambda: text(logs(rig)[0]) == "no line end")
    assert logs(rig)[0].stat().st_mode & 0o777 == 0o600
    await rig.env(A, NEXT="1")
    await rig.there(lambda: rig.ground.marked() and text(logs(rig)[0]) == "no line end")


@pytest.mark.slow
async def test_log_that_cannot_be_begun_anew_blocks_no_process(rig: LocalRig) -> None:
    script = "until test -e go; do sleep 0.05; done; seq 1 2000000; echo >printed; exec sleep MARK"
    await rig.create(A, spec=rig.ground.script(script))
    await rig.there(lambda: logs(rig)[0].exists())
    logs(rig)[1].mkdir()
    (logs(rig)[1] / "in-the-way").touch()
    (rig.ground.home(A) / "go").touch()
    await rig.there((rig.ground.home(A) / "printed").exists, within=30)
    assert size(rig) <= 2 * output.MOST


@pytest.mark.slow
async def test_what_left_its_group_and_prints_on_holds_up_no_stop(rig: LocalRig) -> None:
    """Only without bubblewrap does anything outlive the first process."""
    await rig.create(A, spec=rig.ground.script("setsid sh -c 'sleep MARK' & exec sleep MARK"))
    await rig.there(lambda: len(rig.ground.marked()) > 1)
    await rig.settled(A, Phase.RUNNING)
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED, within=15)
    for pid in rig.ground.marked():
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("pace", [LONG_ALIVE])
async def test_a_process_that_has_ended_is_not_running_while_its_log_is_awaited(rig: LocalRig) -> None:
    await rig.create(A, spec=rig.ground.script("setsid sleep MARK & exit 3"))
    failed = await rig.until(A, lambda one: one.status.last_exit is not None)
    assert failed.status.last_exit is not None
    assert failed.status.last_exit.code == 3
    assert Phase.RUNNING not in {one.status.phase for one in rig.history}
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED, within=15)
    for pid in rig.ground.marked():
        os.kill(pid, signal.SIGKILL)
