"""Directories of the local engine: whose they are, no link ever followed, and what a removal leaves."""

import errno
import os
import shutil
import signal
from pathlib import Path

import pytest
from sandbox_server.domain.sandbox import Phase, Reason, Sandbox
from sandbox_server.engines.local import folder

from tests import samples
from tests.integration.local.conftest import LocalRig

A = "folder-a"

# It is the same with and without bubblewrap.
pytestmark = pytest.mark.parametrize("rig", ["plain"], indirect=True)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory that looks like a sandbox's from within, and must never be touched."""
    made = tmp_path / "outside"
    (made / "volume" / "home").mkdir(parents=True)
    (made / "volume" / "home" / "precious").write_text("kept")
    (made / "main.exit").write_text("kept")
    return made


def everything(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}


async def stopped(rig: LocalRig) -> Sandbox:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    await rig.begin(A, Phase.STOPPED)
    return await rig.settled(A, Phase.STOPPED)


async def refused(rig: LocalRig) -> Sandbox:
    return await rig.until(A, lambda one: one.status.reason is Reason.ENGINE_REFUSED)


async def test_links_in_the_home_are_removed_and_never_followed(rig: LocalRig, outside: Path) -> None:
    before = everything(outside)
    script = (
        f"mkdir -p a/b; ln -s {outside} link; ln -s {outside}/volume a/b/link; ln -s . a/round; echo >up; sleep MARK"
    )
    await rig.create(A, spec=rig.ground.script(script))
    await rig.there((rig.ground.home(A) / "up").exists)
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)
    assert not rig.ground.folder(A).exists()
    assert everything(outside) == before


async def test_a_link_in_place_of_the_folder_is_refused_and_never_followed(rig: LocalRig, outside: Path) -> None:
    before = everything(outside)
    await stopped(rig)
    place, aside = rig.ground.folder(A), rig.ground.config.data_dir / "aside"
    place.rename(aside)
    place.symlink_to(outside)
    await rig.restart()
    await rig.begin(A, Phase.RUNNING)
    await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    await rig.delete(A)
    told = await refused(rig)
    assert str(place) in told.status.message
    assert everything(outside) == before
    place.unlink()
    aside.rename(place)
    await rig.settled(A, Phase.TERMINATED)
    assert not rig.ground.folder(A).exists()
    assert everything(outside) == before


async def test_a_link_planted_before_the_create_is_refused_and_never_followed(rig: LocalRig, outside: Path) -> None:
    before = everything(outside)
    rig.ground.folder(A).parent.mkdir(parents=True)
    rig.ground.folder(A).symlink_to(outside)
    await rig.create(A)
    await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    assert everything(outside) == before
    rig.ground.folder(A).unlink()
    await rig.settled(A, Phase.RUNNING)


@pytest.mark.parametrize("part", ["volume", "volume/home"])
async def test_a_link_in_place_of_the_disk_is_a_lost_disk(rig: LocalRig, outside: Path, part: str) -> None:
    await stopped(rig)
    place = rig.ground.folder(A) / part
    shutil.copytree(place, outside / part, dirs_exist_ok=True)
    before = everything(outside)
    shutil.rmtree(place)
    place.symlink_to(outside / part)
    await rig.until(A, lambda one: one.status.reason is Reason.VOLUME_LOST)
    await rig.begin(A, Phase.RUNNING)
    await rig.until(A, lambda one: one.status.reason is Reason.VOLUME_LOST)
    await rig.manager.start(rig.tenant, rig.wish(), rig.key(A), True)
    if part == "volume":
        await refused(rig)
    else:
        await rig.settled(A, Phase.RUNNING)
        assert not any(rig.ground.home(A).iterdir())
    assert everything(outside) == before
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)
    assert not rig.ground.folder(A).exists()
    assert everything(outside) == before


async def test_no_tree_is_too_deep_and_no_right_taken_away_is_in_the_way(rig: LocalRig) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    here = os.open(rig.ground.home(A), os.O_DIRECTORY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    (rig.ground.home(A) / "shut" / "in").mkdir(parents=True)
    (rig.ground.home(A) / "shut").chmod(0)
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)
    assert not rig.ground.folder(A).exists()


async def test_what_is_mounted_in_a_home_is_not_emptied(rig: LocalRig, monkeypatch: pytest.MonkeyPatch) -> None:
    await stopped(rig)
    mounted = rig.ground.home(A) / "mounted"
    mounted.mkdir()
    (mounted / "precious").write_text("kept")
    rename = Path.rename

    def busy(path: Path, target: Path) -> Path:
        if path.name == "mounted":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        return rename(path, target)

    with monkeypatch.context() as patched:
        # As the kernel answers for a mount point.
        patched.setattr(Path, "rename", busy)
        await rig.delete(A)
        told = await refused(rig)
        assert "mounted: Device or resource busy" in told.status.message
        assert [path.read_text() for path in rig.ground.folder(A).rglob("precious")] == ["kept"]
        assert len({one.status.message for one in rig.history if one.status.reason is Reason.ENGINE_REFUSED}) == 1
    await rig.settled(A, Phase.TERMINATED)
    assert not rig.ground.folder(A).exists()


async def test_a_kept_volume_is_all_that_is_left(rig: LocalRig) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    (rig.ground.home(A) / "work").write_text("mine")
    await rig.delete(A, keep=True)
    await rig.settled(A, Phase.TERMINATED)
    assert [path.name for path in rig.ground.folder(A).iterdir()] == ["volume"]
    await rig.restart()
    await rig.create(A, adopt=True)
    await rig.settled(A, Phase.RUNNING)
    assert (rig.ground.home(A) / "work").read_text() == "mine"


async def test_a_folder_and_a_process_of_another_sandbox_are_left_alone(rig: LocalRig) -> None:
    await rig.create(A, spec=rig.ground.script("echo theirs >work; exec sleep MARK"))
    await rig.there(rig.ground.marked)
    theirs, before = rig.ground.marked(), everything(rig.ground.folder(A))
    # The database is lost, and with it who that was.
    await rig.stop()
    (rig.ground.config.data_dir.parent / "rig.db").unlink()
    await rig.start()
    await rig.create(A)
    told = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    assert told.status.reason is Reason.NAME_CONFLICT
    await rig.restart()
    await rig.begin(A, Phase.STOPPED)
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)
    assert (rig.ground.marked(), everything(rig.ground.folder(A))) == (theirs, before)
    os.kill(theirs[0], signal.SIGKILL)


async def test_a_disk_with_data_is_never_made_anew(rig: LocalRig) -> None:
    known = samples.sandbox(volume_uid="the-disk-with-the-data")
    made = folder.Folder(rig.ground.config.data_dir, known.key)
    made.prepare(known, 1)
    assert not made.stands


@pytest.mark.parametrize("left", ["nothing", "the folder", "the volume, lifted", "all"])
async def test_a_removal_that_was_cut_off_is_taken_up_again(rig: LocalRig, left: str) -> None:
    await stopped(rig)
    await rig.create("folder-b")
    await rig.settled("folder-b", Phase.RUNNING)
    rig._task.cancel()
    await rig.delete(A)
    folder = rig.ground.folder(A)
    if left == "the volume, lifted":
        (folder / "volume").rename(folder / "going-1")
        (folder / "going-1" / "home").rename(folder / "going-2")
    elif left != "all":
        shutil.rmtree(folder)
    if left == "the folder":
        folder.mkdir()
    await rig.restart()
    await rig.settled(A, Phase.TERMINATED)
    assert [path.name for path in folder.parent.iterdir()] == ["folder-b"]


async def test_only_delete_costs_data(rig: LocalRig) -> None:
    await rig.create(A)
    running = await rig.settled(A, Phase.RUNNING)
    work = rig.ground.home(A) / "work"
    work.write_text("mine")
    await rig.ground.crash(running)
    await rig.until(A, lambda one: one.status.restart_count > 1)
    await rig.ground.heal(running)
    await rig.env(A, A="1")
    await rig.settled(A, Phase.RUNNING)
    await rig.restart()
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    # What belongs to the engine alone may be lost: the disk is still the sandbox's.
    for path in rig.ground.folder(A).glob("main.*"):
        path.unlink()
    await rig.restart()
    await rig.begin(A, Phase.RUNNING)
    await rig.settled(A, Phase.RUNNING)
    assert work.read_text() == "mine"


async def test_a_disk_that_comes_back_is_taken_up_again(rig: LocalRig) -> None:
    await stopped(rig)
    (rig.ground.home(A) / "work").write_text("mine")
    volume, aside = rig.ground.home(A).parent, rig.ground.config.data_dir / "aside"
    volume.rename(aside)
    await rig.until(A, lambda one: one.status.reason is Reason.VOLUME_LOST)
    await rig.begin(A, Phase.RUNNING)
    await rig.until(A, lambda one: one.generation == 3 and one.status.reason is Reason.VOLUME_LOST)
    assert not volume.exists()
    aside.rename(volume)
    await rig.settled(A, Phase.RUNNING)
    assert (rig.ground.home(A) / "work").read_text() == "mine"
