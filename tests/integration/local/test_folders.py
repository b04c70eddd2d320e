"""Directories of the local engine: whose they are, no link ever followed, and what a removal leaves."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Sandbox

from tests.support.local import LocalRig, everything

A = "folder-a"

# It is the same with and without bubblewrap.
pytestmark = pytest.mark.parametrize("isolation", ["plain"])


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory that looks like a sandbox's from within, and must never be touched."""
    made = tmp_path / "outside"
    (made / "volume" / "home").mkdir(parents=True)
    (made / "volume" / "home" / "precious").write_text("kept")
    (made / "main.exit").write_text("kept")
    return made


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


@pytest.mark.slow
async def test_a_link_in_place_of_the_folder_is_refused_and_never_followed(rig: LocalRig, outside: Path) -> None:
    before = everything(outside)
    await rig.stopped(A)
    place, aside = rig.ground.folder(A), rig.ground.settings.data_dir / "aside"
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


@pytest.mark.parametrize("itself", [True, False])
async def test_a_link_planted_before_the_create_is_refused_and_never_followed(
    rig: LocalRig, outside: Path, itself: bool
) -> None:
    before = everything(outside)
    rig.ground.folder(A).parent.mkdir(parents=True)
    rig.ground.folder(A).symlink_to(rig.ground.folder(A) if itself else outside)
    await rig.create(A)
    told = await refused(rig)
    assert (told.status.phase, str(rig.ground.folder(A)) in told.status.message) == (Phase.ERROR, True)
    assert everything(outside) == before
    rig.ground.folder(A).unlink()
    await rig.settled(A, Phase.RUNNING)


@pytest.mark.parametrize("part", ["volume", "volume/home"])
@pytest.mark.slow
async def test_a_link_in_place_of_the_disk_is_a_lost_disk(rig: LocalRig, outside: Path, part: str) -> None:
    await rig.stopped(A)
    place = rig.ground.folder(A) / part
    shutil.copytree(place, outside / part, dirs_exist_ok=True)
    before = everything(outside)
    shutil.rmtree(place)
    place.symlink_to(outside / part)
    await rig.until(A, lambda one: one.status.reason is Reason.VOLUME_LOST)
    await rig.begin(A, Phase.RUNNING)
    await rig.until(A, lambda one: one.status.reason is Reason.VOLUME_LOST)
    await rig.manager.start(rig.mutation(A), True)
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


@pytest.mark.slow
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


@pytest.mark.parametrize(("name", "shown"), [("mounted", "mounted"), (os.fsdecode(b"no \xff text"), "no \ufffd text")])
@pytest.mark.slow
async def test_what_is_mounted_in_a_home_is_not_emptied(
    rig: LocalRig, monkeypatch: pytest.MonkeyPatch, name: str, shown: str
) -> None:
    await rig.stopped(A)
    mounted = rig.ground.home(A) / name
    mounted.mkdir()
    (mounted / "precious").write_text("kept")
    rename = Path.rename

    def busy(path: Path, target: Path) -> Path:
        if path.name == name:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        return rename(path, target)

    with monkeypatch.context() as patched:
        # As the kernel answers for a mount point.
        patched.setattr(Path, "rename", busy)
        await rig.delete(A)
        told = await refused(rig)
        assert f"{shown}: Device or resource busy" in told.status.message
        assert [path.read_text() for path in rig.ground.folder(A).rglob("precious")] == ["kept"]
        assert len({one.status.message for one in rig.history if one.status.reason is Reason.ENGINE_REFUSED}) == 1
    await rig.settled(A, Phase.TERMINATED)
    assert not rig.ground.folder(A).exists()


@pytest.mark.parametrize("left", ["nothing", "the folder", "the volume, lifted", "all"])
@pytest.mark.slow
async def test_a_removal_that_was_cut_off_is_taken_up_again(rig: LocalRig, left: str) -> None:
    await rig.stopped(A)
    await rig.create("folder-b")
    await rig.settled("folder-b", Phase.RUNNING)
    await rig.suspend()
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
