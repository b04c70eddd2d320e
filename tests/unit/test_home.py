"""How a fresh disk is filled: the script of the init container, run by real shells, and when the pod has it."""

import dataclasses
import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server.domain import lifecycle, mutations, status
from sandbox_server.domain.observed import Observed
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import HOME_FOLDER, Key, Sandbox
from sandbox_server.engines.kubernetes import containers, home, manifests
from sandbox_server.engines.kubernetes.objects import State, Status
from sandbox_server.rpc import convert
from sandbox_server.settings import Defaults, Kubernetes

from tests.support import samples

SHELLS = [["sh"], ["bash"], ["bash", "--posix"]]
AGENT = 1001


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def disk(folder: Path) -> Path:
    """A disk that the sandbox's user may write to, with what ext4 has at its root."""
    disk = folder / "disk"
    (disk / "lost+found").mkdir(parents=True, mode=0o700)
    disk.chmod(0o777)
    return disk


@pytest.fixture
def image(folder: Path) -> Path:
    """What an image has in its home."""
    image = folder / "image"
    (image / ".config").mkdir(parents=True)
    (image / ".config" / "settings").write_text("one")
    (image / "a file").write_text("two")
    (image / "tool").write_text("#!/bin/sh\n")
    (image / "tool").chmod(0o755)
    (image / "link").symlink_to("tool")
    (image / "fixed").mkdir()
    (image / "fixed" / "file").write_text("three")
    (image / "fixed").chmod(0o555)
    return image


def run(shell: list[str], image: Path, disk: Path) -> subprocess.CompletedProcess[str]:
    program = [*shell, "-c", home.SCRIPT, home.CONTAINER, str(image), str(disk / HOME_FOLDER)]
    user = {"user": AGENT, "group": AGENT, "extra_groups": []} if os.geteuid() == 0 else {}
    return subprocess.run(program, capture_output=True, text=True, check=False, **user)  # type: ignore[call-overload, no-any-return]


each_shell = pytest.mark.parametrize("shell", SHELLS, ids=" ".join)


@pytest.mark.find(23)
@each_shell
def test_a_fresh_disk_gets_all_that_the_image_has_in_the_home(shell: list[str], image: Path, disk: Path) -> None:
    done = run(shell, image, disk)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    made = disk / HOME_FOLDER
    assert sorted(one.name for one in made.iterdir()) == [".config", "a file", "fixed", "link", "tool"]
    assert (made / ".config" / "settings").read_text() == "one"
    assert (made / "link").readlink() == Path("tool")
    assert (made / "tool").stat().st_mode & 0o777 == 0o755
    assert sorted(one.name for one in disk.iterdir()) == ["home", "lost+found"]


@pytest.mark.find(23)
@each_shell
def test_a_disk_that_has_a_home_is_left_as_it_is(shell: list[str], image: Path, disk: Path) -> None:
    assert run(shell, image, disk).returncode == 0
    (disk / HOME_FOLDER / "a file").write_text("changed")
    (disk / HOME_FOLDER / "tool").unlink()
    assert run(shell, image, disk).returncode == 0
    assert (disk / HOME_FOLDER / "a file").read_text() == "changed"
    assert not (disk / HOME_FOLDER / "tool").exists()


@pytest.mark.find(23)
@each_shell
def test_a_copy_that_was_interrupted_begins_again(shell: list[str], image: Path, disk: Path) -> None:
    assert run(shell, image, disk).returncode == 0
    # As if the pod had ended before the last step.
    (disk / HOME_FOLDER).rename(disk / f"{HOME_FOLDER}.part")
    (disk / f"{HOME_FOLDER}.part" / "a file").write_text("tw")
    assert run(shell, image, disk).returncode == 0
    assert (disk / HOME_FOLDER / "a file").read_text() == "two"
    assert not (disk / f"{HOME_FOLDER}.part").exists()


@pytest.mark.find(23)
@each_shell
def test_an_image_without_a_home_gives_an_empty_one(shell: list[str], folder: Path, disk: Path) -> None:
    assert run(shell, folder / "none", disk).returncode == 0
    assert list((disk / HOME_FOLDER).iterdir()) == []


@pytest.mark.find(23)
@each_shell
@pytest.mark.skipif(os.geteuid() != 0, reason="the image's files belong to another user: needs root")
def test_what_the_user_may_not_read_is_left_out(shell: list[str], image: Path, disk: Path) -> None:
    (image / "secret").write_text("of root")
    (image / "secret").chmod(0o600)
    (image / "closed").mkdir(mode=0o700)
    done = run(shell, image, disk)
    assert (done.returncode, done.stderr) == (0, "")
    assert (disk / HOME_FOLDER / "a file").read_text() == "two"
    assert not (disk / HOME_FOLDER / "secret").exists()


@pytest.mark.find(23)
@each_shell
def test_failed_copy_reports_its_cause_and_leaves_no_home(
    shell: list[str], image: Path, disk: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = folder / "tools"
    tools.mkdir()
    full = "cp: error writing 'a file': No space left on device"
    (tools / "cp").write_text(f'#!/bin/sh\necho "cp: secret: Permission denied" >&2\necho "{full}" >&2\nexit 1\n')
    (tools / "cp").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    done = run(shell, image, disk)
    assert done.returncode == 1
    assert done.stderr == f"the image's {image} cannot be copied to the disk: {full}\n"
    assert not (disk / HOME_FOLDER).exists()
    monkeypatch.undo()
    assert run(shell, image, disk).returncode == 0
    assert (disk / HOME_FOLDER / "a file").read_text() == "two"


def pod(sandbox: Sandbox) -> dict[str, Any]:
    """The pod that the template of a sandbox makes."""
    stateful_set = manifests.stateful_set(sandbox, 1, Kubernetes())
    return dict(stateful_set.manifest["spec"]["template"]["spec"])


def mounted(sandbox: Sandbox) -> dict[str, Any]:
    """How the disk is mounted in the sandbox's container."""
    (mount,) = pod(sandbox)["containers"][0]["volumeMounts"]
    return dict(mount)


def made(**changes: Any) -> Sandbox:
    """A sandbox that was just created."""
    key, spec = Key("default", "demo-1"), samples.spec(**changes)
    return mutations.new(key, "default", str(uuid.uuid4()), "habcdefghijk", spec, (), samples.NOW)


def ran(sandbox: Sandbox) -> Sandbox:
    """The sandbox once it was RUNNING."""
    decision = lifecycle.Decision(
        phase=Phase.RUNNING, reason=Reason.READY, message="", action=None, settled=True, recheck_at=None
    )
    return status.record(sandbox, Observed(), decision, samples.NOW)


@pytest.mark.find(23)
def test_the_home_is_a_folder_of_the_disk_and_filled_by_a_container_without_the_environment() -> None:
    sandbox = made()
    (filling,) = pod(sandbox)["initContainers"]
    own = pod(sandbox)["containers"][0]
    assert mounted(sandbox) == {"name": "vn-homevn-agent", "mountPath": "/home/agent", "subPath": "home"}
    assert filling["volumeMounts"] == [{"name": "vn-homevn-agent", "mountPath": "/sandbox-disk"}]
    assert filling["command"][3:] == ["copy-image-home", "/home/agent", "/sandbox-disk/home"]
    assert filling["command"][2].replace("$$", "$") == home.SCRIPT
    assert [filling[name] for name in ("image", "resources", "securityContext")] == [
        own[name] for name in ("image", "resources", "securityContext")
    ]
    assert "env" not in filling
    assert "envFrom" not in filling


@pytest.mark.find(23)
def test_the_template_fills_the_disk_until_a_generation_has_run_and_does_not_change_within_one() -> None:
    sandbox = made()
    # Changed before it ever ran: still fresh.
    again = samples.next_generation(sandbox)
    assert pod(again)["initContainers"]
    running = ran(again)
    assert pod(running) == pod(again)
    later = samples.next_generation(running)
    assert not pod(later)["initContainers"]
    assert mounted(later) == mounted(sandbox)
    assert ran(later) == dataclasses.replace(later, status=ran(later).status)


@pytest.mark.find(23)
def test_a_fresh_disk_in_place_of_a_lost_one_is_filled() -> None:
    lost = dataclasses.replace(
        ran(made()), volume_uid="v", status=samples.status(phase=Phase.ERROR, reason=Reason.VOLUME_LOST)
    )
    fresh = samples.next_generation(mutations.start(samples.next_generation(lost), accept_data_loss=True))
    assert pod(fresh)["initContainers"]


@pytest.mark.find(23)
def test_a_sandbox_from_before_keeps_the_whole_disk_as_its_home() -> None:
    old = dataclasses.replace(made(), home_folder="")
    assert not pod(old)["initContainers"]
    assert "subPath" not in mounted(old)
    ended = dataclasses.replace(
        old,
        desired=DesiredState.DELETED,
        keep_volume=True,
        volume_uid="v",
        status=samples.status(phase=Phase.TERMINATED, reason=Reason.VOLUME_KEPT),
    )
    adopted = mutations.claimed(ended, made(), adopt=True)
    assert "subPath" not in mounted(adopted)
    assert not pod(adopted)["initContainers"]


@pytest.mark.find(23)
@pytest.mark.parametrize(("asked", "default", "fills"), [(None, True, True), (None, False, False), (False, True, False), (True, False, True)])  # fmt: skip
def test_the_spec_decides_whether_a_fresh_disk_is_filled_and_else_the_setting(
    asked: bool | None, default: bool, fills: bool
) -> None:
    message = pb.SandboxSpec(project="demo", copy_image_home=asked)
    spec = convert.spec(message, Defaults(copy_image_home=default))
    assert spec.copy_image_home is fills
    sandbox = dataclasses.replace(made(), spec=spec)
    assert bool(pod(sandbox)["initContainers"]) is fills
    assert mounted(sandbox)["subPath"] == "home"


@pytest.mark.find(23)
def test_disk_that_cannot_be_filled_is_reported_with_the_output_of_the_copy_and_the_next_step() -> None:
    words = "the image's /home/agent cannot be copied to the disk: cp: No space left on device"
    ended = {"exitCode": 1, "reason": "Error", "message": words}
    filling = {"name": home.CONTAINER, "state": {"terminated": ended}}
    own = {"name": "sandbox", "state": {"waiting": {"reason": "PodInitializing"}}}
    found = msgspec.convert({"initContainerStatuses": [filling], "containerStatuses": [own]}, Status)
    cause = containers.cause(found, found.containerStatuses[0], State())
    assert cause.reason is Reason.CONTAINER_CONFIG
    assert words in cause.message
    assert "copy_image_home=false" in cause.message
