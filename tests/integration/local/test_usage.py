"""The condition of disks that are nearly full, on disks that fill, with a service that measures."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sandbox_server.access import file_scripts
from sandbox_server.domain.phase import ConditionType, Phase, Reason
from sandbox_server.domain.sandbox import Condition, Sandbox

from tests.support.local import LocalRig

A = "usage-a"
SIZE = 1 << 20


@pytest.fixture
def isolation() -> str:
    return "isolated"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """The home of the sandbox, on a disk of 1 MiB."""
    home = tmp_path / "data" / "sandboxes" / "default" / A / "volume" / "home"
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("nothing may be mounted here")
    yield home
    subprocess.run(["umount", "--lazy", home], check=False)
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
async def measured(rig: LocalRig, small: Path, tmp_path: Path) -> AsyncIterator[LocalRig]:
    """A rig that measures, with a sandbox that runs on the small disk."""
    await rig.stopped(A)
    subprocess.run(["mount", "--bind", tmp_path / "disk", small], check=True)
    rig.settings["usage_interval"] = 0.1
    await rig.restart()
    await rig.begin(A, Phase.RUNNING)
    await rig.settled(A, Phase.RUNNING)
    yield rig
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    subprocess.run(["umount", "--lazy", small], check=True)


def condition(sandbox: Sandbox) -> Condition:
    (found,) = [one for one in sandbox.status.conditions if one.type is ConditionType.DISK_NEARLY_FULL]
    return found


def fill(home: Path, percent: int) -> None:
    """Goes from the present size straight to the next one: a measurement may be made in between."""
    size = SIZE * percent // 100
    with (home / "filling").open("ab") as file:
        file.write(bytes(max(0, size - file.tell())))
        file.truncate(size)


async def becomes(rig: LocalRig, holds: bool | None) -> Condition:
    def told() -> bool:
        return condition(rig.feed.catalogue.get(rig.key(A)).event.sandbox).status is holds  # type: ignore[union-attr]

    await rig.there(told, within=30)
    return condition(await rig.get(A))


async def settles(rig: LocalRig) -> int:
    """Returns the sequence of the last event once the disk was measured twice more."""
    before = rig.measuring.outcomes[""]
    await rig.there(lambda: rig.measuring.outcomes[""] >= before + 2, within=30)
    return rig.feed.sequence


async def test_disk_that_fills_is_said_to_be_nearly_full_until_there_is_room(
    measured: LocalRig, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = measured
    assert (await becomes(rig, False)).reason is Reason.READY
    fill(small, 95)
    assert (await becomes(rig, True)).reason is Reason.DISK_FULL_SOON
    sequence = await settles(rig)
    # Neither what changes nothing nor a restart is an event.
    fill(small, 87)
    assert await settles(rig) == sequence
    await rig.restart()
    assert condition(await rig.get(A)).status is True
    assert await settles(rig) == sequence
    # A disk that does not change while nothing runs.
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    assert condition(await rig.get(A)).status is True
    await rig.begin(A, Phase.RUNNING)
    await rig.settled(A, Phase.RUNNING)
    fill(small, 50)
    assert (await becomes(rig, False)).reason is Reason.READY
    sequence = await settles(rig)
    fill(small, 87)
    assert await settles(rig) == sequence
    # Where it cannot be measured any more, nothing is known.
    with monkeypatch.context() as patched:
        patched.setattr(file_scripts, "usage", lambda: file_scripts.sent(b"", "exit 0"))
        assert (await becomes(rig, None)).reason is Reason.DISK_NOT_MEASURED
        assert rig.measuring.outcomes["SANDBOX_NOT_REACHED"] >= 3
    await becomes(rig, False)
    # A service that does not measure says so.
    rig.settings["usage_interval"] = 0
    await rig.restart()
    assert (await becomes(rig, None)).reason is Reason.DISK_NOT_MEASURED
    assert not rig.measuring.outcomes
