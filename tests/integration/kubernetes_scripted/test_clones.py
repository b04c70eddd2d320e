"""Clones on Kubernetes: a VolumeSnapshot of the very disk that was meant, the disk that is made from it, and its removal."""

from typing import Any

import pytest
from aiohttp import web
from sandbox_client import AsyncClient, errors
from sandbox_server.domain.origins import Clone
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.kubernetes import resources

from tests.support import scripted_disks
from tests.support.rig import A, Rig
from tests.support.scripted import CLAIM, CLAIMS, SERVICES, until
from tests.support.scripted_api import ScriptedApi, forbidden, status
from tests.support.waiting import PATIENCE

B = "suite-b"
SNAPSHOTS = "apis/snapshot.storage.k8s.io/v1/namespaces/default/volumesnapshots"
NO_CLASS = "Failed to set default snapshot class with error cannot find default snapshot class"


@pytest.fixture
async def source(rig: Rig, api: ScriptedApi) -> Sandbox:
    """A sandbox to clone. The storage takes no snapshot before it is told to."""
    await rig.create(A)
    running = await rig.settled(A, Phase.RUNNING)
    api.takes_snapshots = False
    return running


async def clone(rig: Rig, source: Sandbox) -> Sandbox:
    wanted = Clone(source.key, project="", labels={}, set={}, unset=(), replaces=False)
    return (await rig.manager.clone(rig.mutation(B), wanted, "")).sandbox


def name(clone: Sandbox) -> str:
    return f"clone-{clone.uid}"


async def asked(api: ScriptedApi, made: Sandbox) -> None:
    await until(lambda: name(made) in api.objects.get(SNAPSHOTS, {}))


def taken_from(api: ScriptedApi, made: Sandbox) -> str:
    """The uid of the claim whose files the disk of a clone began with."""
    return api.disks.made_from[api.objects[CLAIMS][resources.claim_name(made)]["metadata"]["uid"]]


def owners(api: ScriptedApi, made: Sandbox) -> list[str]:
    """The uids of what owns the VolumeSnapshot of a clone."""
    return [one["uid"] for one in api.objects[SNAPSHOTS][name(made)]["metadata"]["ownerReferences"]]


async def failed(rig: Rig, words: str) -> None:
    def holds(one: Sandbox) -> bool:
        return one.status.reason is Reason.RESTORE_FAILED and words in one.status.message

    assert (await rig.until(B, holds)).status.phase is Phase.ERROR


async def test_a_clone_is_made_from_a_snapshot_of_its_source_that_goes_when_its_disk_is_there(
    rig: Rig, api: ScriptedApi, source: Sandbox
) -> None:
    made = await clone(rig, source)
    await asked(api, made)
    taken = api.objects[SNAPSHOTS][name(made)]
    assert taken["spec"] == {"source": {"persistentVolumeClaimName": CLAIM}}
    ours = "sandbox.fullstackagent.io"
    assert taken["metadata"]["labels"] == {f"{ours}/id": B, f"{ours}/clone": B}
    assert taken["metadata"]["annotations"] == {f"{ours}/uid": made.uid, f"{ours}/driver": scripted_disks.DRIVER}
    assert owners(api, made) == [api.objects[SERVICES][f"{B}-service"]["metadata"]["uid"]]
    waiting = await rig.until(B, lambda one: one.status.reason is Reason.VOLUME_RESTORING)
    words = f"the disk is being made from the disk of {A}: the VolumeSnapshot {name(made)}"
    assert waiting.status.message.startswith(words)
    assert resources.claim_name(made) not in api.objects[CLAIMS]
    api.take(SNAPSHOTS, name(made))
    await rig.settled(B, Phase.RUNNING)
    assert taken_from(api, made) == source.volume_uid
    await until(lambda: not api.objects[SNAPSHOTS])


@pytest.mark.slow
async def test_what_the_storage_says_meanwhile_is_in_the_status(rig: Rig, api: ScriptedApi, source: Sandbox) -> None:
    made = await clone(rig, source)
    await asked(api, made)
    told = {"readyToUse": False, "error": {"message": "rpc error: code = ResourceExhausted desc = no room"}}
    api.put(SNAPSHOTS, api.objects[SNAPSHOTS][name(made)] | {"status": told})
    await rig.until(B, lambda one: one.status.message.endswith("no room"))
    assert (await rig.get(B)).status.reason is Reason.VOLUME_RESTORING
    api.take(SNAPSHOTS, name(made))
    await rig.settled(B, Phase.RUNNING)


@pytest.mark.slow
async def test_a_snapshot_that_cannot_be_taken_is_said_until_it_can(
    rig: Rig, api: ScriptedApi, source: Sandbox
) -> None:
    made = await clone(rig, source)
    await asked(api, made)
    told = {"readyToUse": False, "error": {"message": NO_CLASS}}
    api.put(SNAPSHOTS, api.objects[SNAPSHOTS][name(made)] | {"status": told})
    await failed(rig, NO_CLASS)
    # An operator has made a class.
    api.take(SNAPSHOTS, name(made))
    await rig.settled(B, Phase.RUNNING)


@pytest.mark.slow
async def test_the_disk_of_a_source_that_took_its_name_is_never_taken_for_it(
    rig: Rig, api: ScriptedApi, source: Sandbox
) -> None:
    made = await clone(rig, source)
    await asked(api, made)
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)
    await failed(rig, f"the PersistentVolumeClaim {CLAIM} is gone, and was not copied before")
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    # The storage gets to it only now, and finds the claim of another sandbox.
    api.take(SNAPSHOTS, name(made))
    await failed(rig, f"the PersistentVolumeClaim {CLAIM} is another by now")
    assert resources.claim_name(made) not in api.objects[CLAIMS]
    await rig.delete(B)
    await rig.settled(B, Phase.TERMINATED)
    assert not api.objects[SNAPSHOTS]


@pytest.mark.fault(11)
@pytest.mark.parametrize("is_made_again", [False, True])
@pytest.mark.slow
async def test_a_snapshot_that_is_asked_for_after_its_clone_was_deleted_goes(
    rig: Rig, api: ScriptedApi, source: Sandbox, is_made_again: bool
) -> None:
    late: list[web.Request] = []

    async def cut_off(request: web.Request) -> web.StreamResponse:
        await request.read()
        late.append(request)
        return status(504, "the write is on its way")

    swallowed = (lambda request: (request.method, request.path) == ("POST", f"/{SNAPSHOTS}"), cut_off)
    api.lasting.append(swallowed)
    await clone(rig, source)
    await until(lambda: bool(late))
    await rig.delete(B)
    await rig.settled(B, Phase.TERMINATED)
    if is_made_again:
        # Its Service has the same name as the owner that is gone, and another uid.
        await rig.create(B)
        await rig.settled(B, Phase.RUNNING)
    assert (await api.obey(late[0])).status == 201
    await until(lambda: not api.objects[SNAPSHOTS])


@pytest.mark.parametrize("collects", [False, True])
@pytest.mark.slow
async def test_a_snapshot_whose_service_somebody_removes_is_made_again(
    rig: Rig, api: ScriptedApi, source: Sandbox, collects: bool
) -> None:
    if not collects:
        # It may be slow, and then removes what a disk is being made from.
        api.controllers.discard("garbage")
    made = await clone(rig, source)
    await asked(api, made)
    first = api.objects[SNAPSHOTS][name(made)]["metadata"]
    await rig.until(B, lambda one: one.status.reason is Reason.VOLUME_RESTORING)
    api.take(SNAPSHOTS, name(made))
    api.delete(SERVICES, f"{B}-service")
    await until(lambda: api.objects[SNAPSHOTS].get(name(made), {}).get("metadata", first)["uid"] != first["uid"])
    assert owners(api, made) == [api.objects[SERVICES][f"{B}-service"]["metadata"]["uid"]]
    api.take(SNAPSHOTS, name(made))
    await rig.settled(B, Phase.RUNNING)
    assert taken_from(api, made) == source.volume_uid
    await until(lambda: not api.objects[SNAPSHOTS])


@pytest.mark.slow
async def test_a_snapshot_that_a_former_release_asked_for_is_taken(rig: Rig, api: ScriptedApi, source: Sandbox) -> None:
    made = await clone(rig, source)
    await asked(api, made)
    found = api.objects[SNAPSHOTS][name(made)]
    api.put(SNAPSHOTS, found | {"metadata": {k: v for k, v in found["metadata"].items() if k != "ownerReferences"}})
    api.take(SNAPSHOTS, name(made))
    await rig.settled(B, Phase.RUNNING)
    await until(lambda: not api.objects[SNAPSHOTS])


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.slow
async def test_a_clone_that_is_deleted_before_leaves_no_snapshot(
    rig: Rig, api: ScriptedApi, source: Sandbox, keep: bool
) -> None:
    made = await clone(rig, source)
    await asked(api, made)
    await rig.delete(B, keep=keep)
    await rig.settled(B, Phase.TERMINATED)
    assert not api.objects[SNAPSHOTS]
    assert api.objects[CLAIMS].keys() == {CLAIM}


@pytest.mark.slow
async def test_a_snapshot_of_somebody_else_that_has_the_name_is_left_alone(
    rig: Rig, api: ScriptedApi, source: Sandbox
) -> None:
    await rig.suspend()
    made = await clone(rig, source)
    api.put(SNAPSHOTS, {"metadata": {"name": name(made)}, "status": {"readyToUse": True}})
    await rig.restart()
    await rig.until(B, lambda one: one.status.reason is Reason.NAME_CONFLICT)
    await rig.delete(B)
    await rig.settled(B, Phase.TERMINATED)
    assert name(made) in api.objects[SNAPSHOTS]


@pytest.mark.parametrize("is_made", [False, True])
@pytest.mark.slow
async def test_a_clone_is_deleted_where_the_service_may_no_longer_use_snapshots(
    rig: Rig, api: ScriptedApi, source: Sandbox, is_made: bool
) -> None:
    made = await clone(rig, source)
    await asked(api, made)
    await rig.suspend()

    async def forbids(_: object) -> Any:
        return forbidden("get", "volumesnapshots.snapshot.storage.k8s.io", "default")

    if is_made:
        api.take(SNAPSHOTS, name(made))
        await rig.restart()
        await rig.settled(B, Phase.RUNNING)
        await rig.suspend()
    api.lasting.append((lambda request: request.path.startswith(f"/{SNAPSHOTS}"), forbids))
    await rig.restart()
    await rig.delete(B)
    await rig.settled(B, Phase.TERMINATED)
    assert api.objects[CLAIMS].keys() == {CLAIM}


@pytest.mark.slow
async def test_a_clone_is_refused_where_the_cluster_has_no_snapshots(
    rig: Rig, api: ScriptedApi, source: Sandbox
) -> None:
    api.snapshots = False
    async with AsyncClient(f"127.0.0.1:{rig.port}", timeout=10 * PATIENCE) as caller:
        with pytest.raises(errors.FailedPrecondition, match="install the snapshot controller") as refused:
            await caller.clone(A, clone_id=B)
    assert refused.value.reason == "SNAPSHOTS_UNSUPPORTED"
    # The definitions went after the call.
    await clone(rig, source)
    await failed(rig, "install the snapshot controller")
