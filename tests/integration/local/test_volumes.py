"""Disks of the local engine: whose they are, that they are kept, and that only Delete costs one."""

import os
import signal

import pytest
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.engines.local import folder

from tests.support import samples
from tests.support.local import LocalRig, everything

A = "volume-a"

# It is the same with and without bubblewrap.
pytestmark = pytest.mark.parametrize("isolation", ["plain"])


@pytest.mark.slow
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


@pytest.mark.slow
async def test_a_volume_that_was_kept_before_anybody_had_seen_it_is_adopted(rig: LocalRig) -> None:
    await rig.suspend()
    made = await rig.create(A)
    # A service that is killed between making the volume and writing down which it was.
    folder.Folder(rig.ground.settings.data_dir, made.key).prepare(made, 1)
    (rig.ground.home(A) / "work").write_text("mine")
    await rig.delete(A, keep=True)
    await rig.restart()
    gone = await rig.settled(A, Phase.TERMINATED)
    assert gone.status.reason is Reason.VOLUME_KEPT
    await rig.create(A, adopt=True)
    await rig.settled(A, Phase.RUNNING)
    assert (rig.ground.home(A) / "work").read_text() == "mine"


@pytest.mark.slow
async def test_a_folder_and_a_process_of_another_sandbox_are_left_alone(rig: LocalRig) -> None:
    await rig.create(A, spec=rig.ground.script("echo theirs >work; exec sleep MARK"))
    await rig.there(rig.ground.marked)
    await rig.stop()
    theirs, before = rig.ground.marked(), everything(rig.ground.folder(A))
    # The database is lost, and with it the sandbox of the volume.
    (rig.ground.settings.data_dir.parent / "rig.db").unlink()
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
    made = folder.Folder(rig.ground.settings.data_dir, known.key)
    made.prepare(known, 1)
    assert not made.has_volume


async def test_disk_that_cannot_be_created_is_reported_once_and_tries_do_not_pile_up(rig: LocalRig) -> None:
    theirs = rig.ground.folder(A) / "volume"
    theirs.mkdir(parents=True)
    (theirs / "volume.json").write_text('{"owner": "another", "uid": "another"}')
    await rig.create(A)
    await rig.there(lambda: rig.reconciler.outcomes["refused", "ENGINE_REFUSED"] > 2)
    assert len({one.status.message for one in rig.history if one.status.reason is Reason.ENGINE_REFUSED}) == 1
    assert {path.name for path in theirs.parent.iterdir()} == {"volume", "new"}


@pytest.mark.slow
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


@pytest.mark.slow
async def test_a_disk_that_comes_back_is_taken_up_again(rig: LocalRig) -> None:
    await rig.stopped(A)
    (rig.ground.home(A) / "work").write_text("mine")
    volume, aside = rig.ground.home(A).parent, rig.ground.settings.data_dir / "aside"
    volume.rename(aside)
    await rig.until(A, lambda one: one.status.reason is Reason.VOLUME_LOST)
    await rig.begin(A, Phase.RUNNING)
    await rig.until(A, lambda one: one.generation == 3 and one.status.reason is Reason.VOLUME_LOST)
    assert not volume.exists()
    aside.rename(volume)
    await rig.settled(A, Phase.RUNNING)
    assert (rig.ground.home(A) / "work").read_text() == "mine"
