"""Verifications on Kubernetes: the claim and the pod that are made, what they show, and that both are counted as the local engine
counts."""

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sandbox_server import engines
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.snapshot import Contents, Scratch, SnapshotReason, State, Verification, VerificationState
from sandbox_server.engines.kubernetes.engine import KubernetesEngine
from sandbox_server.engines.local import counting

from tests.support import samples, scripted_disks
from tests.support.scripted import CLAIMS, PODS, ScriptedGround, until
from tests.support.scripted_api import ScriptedApi, status
from tests.support.waiting import PATIENCE

SNAPSHOTS = "apis/snapshot.storage.k8s.io/v1/namespaces/default/volumesnapshots"
EVENTS = "api/v1/namespaces/default/events"
SHELLS = {"sh": ("/bin/sh",), "bash": ("/bin/bash",), "busybox": ("/usr/bin/busybox", "sh")}


class World:
    """An engine that holds every namespace, and a snapshot that is ready, of a disk that is `disk`."""

    def __init__(self, api: ScriptedApi, engine: KubernetesEngine, disk: Path) -> None:
        self.api = api
        self.engine = engine
        self.epoch = 1
        self.disk = disk
        self.snapshot = samples.snapshot(state=State.READY, home_folder="home", storage_class="fast")
        self.name = f"verify-{self.snapshot.uid}"
        api.takes_snapshots = False
        ours = "sandbox.fullstackagent.io"
        annotations = {f"{ours}/uid": self.snapshot.uid, f"{ours}/driver": scripted_disks.DRIVER}
        meta = {"name": f"snapshot-{self.snapshot.uid}", "annotations": annotations}
        self.source = api.put(SNAPSHOTS, {"metadata": meta, "status": {"readyToUse": True}})

    def objects(self, collection: str) -> dict[str, Any]:
        return self.api.objects.get(collection, {})

    async def scratch(self) -> Scratch:
        return await self.engine.scratch(self.snapshot)

    async def ended(self) -> Scratch:
        """The scratch once it is known what comes of it."""
        async with asyncio.timeout(10 * PATIENCE):
            while (found := await self.scratch()).state in (None, VerificationState.RUNNING):
                await asyncio.sleep(0.01)
        return found

    def pod(self, **told: Any) -> None:
        """Has the pod have a status."""
        self.api.put(PODS, self.objects(PODS)[self.name] | {"status": told})


@pytest.fixture
async def world(api: ScriptedApi, tmp_path: Path) -> AsyncIterator[World]:
    settings = ScriptedGround(api, tmp_path).settings
    engine = KubernetesEngine(settings.kubernetes, Pace(), "counts")
    (tmp_path / "disk" / "home").mkdir(parents=True)
    made = World(api, engine, tmp_path / "disk")
    await engine.open([], lambda _: None, lambda _: made.epoch)
    yield made
    await engine.close()


def counted(home: Path) -> Contents:
    """What the local engine counts."""
    top = os.open(home, os.O_RDONLY)
    try:
        return counting.contents(top, home.parent, lambda: None)
    finally:
        os.close(top)


def fill(home: Path) -> None:
    """Has everything in a home that can be there, under names of any bytes."""
    top = os.fsencode(home)
    for name in (
        b"plain",
        b"line\nbreak",
        b"caf\xe9\xff",
        b"back\\slash",
        b"return\r",
        b"-dash",
        b" two  spaces ",
        b"$(q)'\"",
    ):
        Path(os.fsdecode(top + b"/" + name)).write_bytes(name * 10)
    (home / "plain").chmod(0o4750)
    (home / "empty").touch()
    inner = Path(os.fsdecode(top + b"/in\nner/.hidden"))
    inner.mkdir(parents=True, mode=0o2755)
    (inner / "file").write_text("inside")
    (home / "second name").hardlink_to(inner / "file")
    (home / "link").symlink_to("plain")
    (home / "up").symlink_to("..")
    Path(os.fsdecode(top + b"/odd\nlink")).symlink_to("line\nbreak")
    os.mkfifo(home / "fifo")


@pytest.mark.parametrize("shell", SHELLS)
async def test_a_pod_counts_what_the_local_engine_counts(world: World, shell: str, tmp_path: Path) -> None:
    fill(world.disk / "home")
    world.api.verifier.disk, world.api.verifier.shell = world.disk, SHELLS[shell]
    await world.engine.verify(world.snapshot)
    found = await world.ended()
    assert (found.state, found.contents) == (VerificationState.PASSED, counted(world.disk / "home"))
    assert found.contents is not None
    assert (found.contents.files, found.contents.folders, found.contents.links, found.contents.others) == (11, 2, 3, 1)


async def test_the_scratch_is_made_once_is_no_sandbox_and_goes(world: World) -> None:
    assert await world.scratch() == Scratch(is_there=False)
    await world.engine.verify(world.snapshot)
    await world.engine.verify(world.snapshot)
    claim, pod = world.objects(CLAIMS)[world.name], world.objects(PODS)[world.name]
    source = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": f"snapshot-{world.snapshot.uid}"}
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "dataSource": source,
        "resources": {"requests": {"storage": "5Gi"}},
        "storageClassName": "fast",
    }
    (container,) = pod["spec"]["containers"]
    assert (container["image"], pod["spec"]["restartPolicy"]) == ("counts", "Never")
    assert not {"env", "envFrom", "ports"} & container.keys()
    assert pod["spec"]["automountServiceAccountToken"] is False
    for one in (claim, pod):
        assert "sandbox.fullstackagent.io/id" not in one["metadata"]["labels"]
        assert one["metadata"]["ownerReferences"][0]["uid"] == world.source["metadata"]["uid"]
    assert [one for one in world.api.calls if one[0] == "POST"].count(("POST", f"/{PODS}")) == 2
    world.engine.follow(["default"])
    await until(lambda: world.engine.synced("default"))
    for key in (Key("default", world.name), Key("default", world.snapshot.sandbox_id)):
        assert world.engine.leftovers(key, None) == set()
    await world.engine.clear(world.snapshot)
    await until(lambda: world.objects(CLAIMS) == world.objects(PODS) == {})
    assert await world.scratch() == Scratch(is_there=False)


async def test_a_scratch_of_which_only_the_claim_was_made_is_gone_on_with(world: World) -> None:
    world.api.once(lambda request: request.method == "POST" and request.path == f"/{PODS}", refuses("not now", 500))
    with pytest.raises(engines.Unreachable):
        await world.engine.verify(world.snapshot)
    assert await world.scratch() == Scratch(is_there=True)
    await world.engine.verify(world.snapshot)
    assert (await world.scratch()).state is VerificationState.RUNNING


async def test_the_garbage_collector_removes_a_scratch_with_its_snapshot(world: World) -> None:
    await world.engine.verify(world.snapshot)
    world.api.delete(SNAPSHOTS, f"snapshot-{world.snapshot.uid}")
    await until(lambda: world.objects(CLAIMS) == world.objects(PODS) == {})


async def test_nothing_is_written_where_the_namespace_is_not_held(world: World) -> None:
    world.epoch = 0
    with pytest.raises(engines.NotHeld):
        await world.engine.verify(world.snapshot)
    world.epoch = 1
    await world.engine.verify(world.snapshot)
    world.epoch = 0
    with pytest.raises(engines.NotHeld):
        await world.engine.clear(world.snapshot)
    assert world.name in world.objects(PODS)


def refuses(words: str, code: int = 403) -> Any:
    async def misdeed(_: object) -> Any:
        return status(code, words)

    return misdeed


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ('persistentvolumeclaims "x" is forbidden: exceeded quota: few', SnapshotReason.QUOTA_EXCEEDED),
        ('pods is forbidden: User "u" cannot create resource "pods" in API group ""', SnapshotReason.FORBIDDEN),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest"', SnapshotReason.FORBIDDEN),
    ],
)
async def test_a_refusal_of_the_api_server_has_a_cause(world: World, words: str, reason: SnapshotReason) -> None:
    world.api.once(lambda request: request.method == "POST" and request.path == f"/{PODS}", refuses(words))
    await world.engine.verify(world.snapshot)
    found = await world.scratch()
    assert (found.state, found.reason, found.is_there) == (VerificationState.FAILED, reason, True)
    assert words in found.message
    await world.engine.clear(world.snapshot)
    await until(lambda: world.objects(CLAIMS) == {})
    assert await world.scratch() == Scratch(is_there=False)


async def test_without_the_right_to_pods_nothing_is_begun(world: World) -> None:
    world.api.access = False
    found = await world.scratch()
    assert (found.state, found.reason, found.is_there) == (VerificationState.FAILED, SnapshotReason.FORBIDDEN, False)
    assert "grant it deploy/verification.yaml" in found.message


def forbids(request: Any) -> bool:
    return bool(request.method == "DELETE" and request.path.startswith(f"/{PODS}/"))


@pytest.mark.parametrize("looks", [True, False])
async def test_a_scratch_that_was_begun_is_left_to_the_cluster_where_pods_are_forbidden(
    world: World, looks: bool
) -> None:
    await world.engine.verify(world.snapshot)
    begun = Verification(
        state=VerificationState.RUNNING, reason=SnapshotReason.COUNTING, message="", start_time=samples.NOW
    )
    world.snapshot = dataclasses.replace(world.snapshot, verification=begun)
    if looks:
        world.api.once(forbids, refuses('pods is forbidden: User "u" cannot delete resource "pods" in API group'))
    else:
        world.api.access = False
        found = await world.scratch()
        assert (found.state, found.reason, found.is_there) == (VerificationState.FAILED, SnapshotReason.FORBIDDEN, True)
    await world.engine.clear(world.snapshot)
    assert world.name in world.objects(PODS)
    claim = world.objects(CLAIMS).get(world.name)
    assert claim is None or claim["metadata"]["deletionTimestamp"]
    assert await world.scratch() == Scratch(is_there=False)
    world.api.access = True
    await world.engine.verify(world.snapshot)
    assert (await world.scratch()).is_there
    await world.engine.clear(world.snapshot)
    await until(lambda: world.objects(CLAIMS) == world.objects(PODS) == {})


async def test_a_snapshot_that_is_gone_and_a_name_that_is_taken_are_failures(world: World) -> None:
    world.api.put(PODS, {"metadata": {"name": world.name}, "status": {"phase": "Running"}})
    await world.engine.verify(world.snapshot)
    found = await world.scratch()
    assert (found.state, found.message) == (
        VerificationState.FAILED,
        f"the Pod {world.name} belongs to somebody else; it is left alone. Remove it",
    )
    await world.engine.clear(world.snapshot)
    assert world.name in world.objects(PODS)
    world.api.delete(SNAPSHOTS, f"snapshot-{world.snapshot.uid}")
    await world.engine.verify(world.snapshot)
    assert (await world.scratch()).reason is SnapshotReason.LOST


DRIVER = 'failed to provision volume with StorageClass "fast": rpc error: code = {} desc = no'
SOURCE = "error getting handle for DataSource Type VolumeSnapshot by Name s: error getting snapshot s from api server: not found"


@pytest.mark.parametrize(
    ("said", "state", "reason"),
    [
        (DRIVER.format("Unavailable"), VerificationState.RUNNING, SnapshotReason.RESTORING),
        (DRIVER.format("ResourceExhausted"), VerificationState.FAILED, SnapshotReason.NO_SPACE),
        (DRIVER.format("InvalidArgument"), VerificationState.FAILED, SnapshotReason.STORAGE_FAILED),
        (SOURCE, VerificationState.FAILED, SnapshotReason.LOST),
    ],
)
async def test_what_the_storage_says_of_the_claim_is_told(
    world: World, said: str, state: VerificationState, reason: SnapshotReason
) -> None:
    await world.engine.verify(world.snapshot)
    claim = world.objects(CLAIMS)[world.name]["metadata"]
    about = {"kind": "PersistentVolumeClaim", "name": world.name, "uid": claim["uid"]}
    for name, words in (("old", "older words"), ("new", said)):
        told = {"reason": "ProvisioningFailed", "type": "Warning", "message": words, "involvedObject": about}
        world.api.put(EVENTS, {"metadata": {"name": name}} | told)
    other = about | {"uid": "of another claim"}
    world.api.put(EVENTS, {"metadata": {"name": "other"}} | told | {"involvedObject": other, "message": "not this"})
    found = await world.scratch()
    assert (found.state, found.reason, found.message) == (state, reason, said)


def waiting(reason: str, message: str) -> dict[str, Any]:
    return {"name": "verify", "state": {"waiting": {"reason": reason, "message": message}}}


def terminated(**end: Any) -> dict[str, Any]:
    return {"phase": "Failed", "containerStatuses": [{"name": "verify", "state": {"terminated": end}}]}


BOUND = [{"type": "PodScheduled", "status": "True"}]


@pytest.mark.parametrize(
    ("told", "state", "reason", "words"),
    [
        ({"phase": "Running"}, "RUNNING", "COUNTING", "its files are being counted"),
        ({"phase": "Pending"}, "RUNNING", "RESTORING", "waiting for a node"),
        (
            {
                "phase": "Pending",
                "conditions": BOUND,
                "containerStatuses": [waiting("ImagePullBackOff", "no such image")],
            },
            "FAILED",
            "POD_FAILED",
            "no such image",
        ),
        (
            terminated(exitCode=1, message="failed find: ./a: Permission denied"),
            "FAILED",
            "UNREADABLE",
            "find: ./a: Permission denied",
        ),
        (
            {"phase": "Failed", "reason": "DeadlineExceeded", "message": "Pod was active on the node longer"},
            "FAILED",
            "VERIFICATION_DEADLINE",
            "Pod was active on the node longer",
        ),
        *(
            (
                terminated(exitCode=code, reason=cause),
                "FAILED",
                "POD_FAILED",
                "the pod that counts was killed, as one is whose files are more than its 512Mi of memory can sort",
            )
            for code, cause in ((1, "OOMKilled"), (137, "Error"))
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "low on memory"},
            "FAILED",
            "POD_FAILED",
            "the pod that counts has ended: Evicted: low on memory",
        ),
        (
            terminated(exitCode=0, message="counted 1 2"),
            "FAILED",
            "POD_FAILED",
            "the pod that counts has ended: counted 1 2",
        ),
    ],
)
async def test_what_becomes_of_the_pod_is_told(
    world: World, told: dict[str, Any], state: str, reason: str, words: str
) -> None:
    await world.engine.verify(world.snapshot)
    claim = world.objects(CLAIMS)[world.name]
    world.api.put(CLAIMS, world.api.disks.bound(claim))
    world.pod(**told)
    found = await world.scratch()
    assert (found.state, found.reason, found.message) == (VerificationState[state], SnapshotReason[reason], words)


async def test_a_home_that_is_missing_or_unreadable_is_told(world: World) -> None:
    world.api.verifier.disk = world.disk
    (world.disk / "home").rmdir()
    await world.engine.verify(world.snapshot)
    found = await world.ended()
    assert (found.state, found.reason) == (VerificationState.FAILED, SnapshotReason.UNREADABLE)
    assert "home" in found.message


async def test_a_disk_of_a_former_release_is_its_own_home(world: World) -> None:
    world.snapshot = dataclasses.replace(world.snapshot, home_folder="")
    world.api.verifier.disk = world.disk
    await world.engine.verify(world.snapshot)
    found = await world.ended()
    assert found.contents == counted(world.disk)


async def test_an_empty_disk_of_another_provisioner_verifies_nothing(world: World) -> None:
    await world.engine.verify(world.snapshot)
    world.pod(phase="Succeeded")
    claim = world.objects(CLAIMS)[world.name]
    meta = claim["metadata"]
    made_by = meta["annotations"] | {scripted_disks.PROVISIONER: "rancher.io/local-path"}
    world.api.put(CLAIMS, claim | {"metadata": meta | {"annotations": made_by}, "status": {"phase": "Bound"}})
    found = await world.scratch()
    assert (found.state, found.reason) == (VerificationState.FAILED, SnapshotReason.STORAGE_FAILED)
    assert "is made by rancher.io/local-path" in found.message
