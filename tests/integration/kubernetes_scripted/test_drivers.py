"""A disk that is to be made from a snapshot is made by the driver that took it, or the sandbox says that it was not."""

from collections.abc import AsyncIterator

import pytest
from sandbox_client import AsyncClient, errors
from sandbox_server.domain.origins import Clone
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.kubernetes import resources

from tests.support.rig import A, Rig
from tests.support.scripted import CLAIM, CLAIMS, SETS
from tests.support.scripted_api import ScriptedApi
from tests.support.scripted_disks import CLASS, DRIVER, PROVISIONER
from tests.support.waiting import PATIENCE

B = "suite-b"
FOLDERS = "rancher.io/local-path"


@pytest.fixture
async def source(rig: Rig) -> Sandbox:
    await rig.create(A)
    return await rig.settled(A, Phase.RUNNING)


@pytest.fixture
async def caller(rig: Rig) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(f"127.0.0.1:{rig.port}", timeout=10 * PATIENCE) as made:
        yield made


def storage_class(api: ScriptedApi, provisioner: str, name: str = CLASS) -> None:
    """Has the service see a class, which is the default of the cluster."""
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    known = {"metadata": {"name": name, "annotations": default}, "provisioner": provisioner}
    api.cluster.objects["storageclasses"] = [known]


async def clone(rig: Rig, source: Sandbox) -> Sandbox:
    wanted = Clone(source.key, project="", labels={}, set={}, unset=(), replaces=False)
    return (await rig.manager.clone(rig.mutation(B), wanted, "")).sandbox


async def failed(rig: Rig, words: str) -> None:
    def holds(one: Sandbox) -> bool:
        return one.status.reason is Reason.RESTORE_FAILED and words in one.status.message

    assert (await rig.until(B, holds)).status.phase is Phase.ERROR


@pytest.mark.parametrize("provisioner", [FOLDERS, ""])
@pytest.mark.slow
async def test_an_empty_disk_is_never_taken_for_a_copy(
    rig: Rig, api: ScriptedApi, source: Sandbox, provisioner: str
) -> None:
    api.disks.provisioner = provisioner
    made = await clone(rig, source)
    became = f"is made by {FOLDERS}" if provisioner else "was there before"
    await failed(rig, f"the disk of the claim {resources.claim_name(made)} {became}, and only {DRIVER} makes one")
    assert Phase.RUNNING not in [one.status.phase for one in rig.history if one.id == B]
    await rig.until(B, lambda _: api.objects[SETS][B]["spec"]["replicas"] == 0)
    await rig.restart()
    await failed(rig, became)
    await rig.delete(B)
    await rig.settled(B, Phase.TERMINATED)


@pytest.mark.slow
async def test_a_class_of_another_driver_is_refused_at_once_where_the_service_sees_it(
    rig: Rig, api: ScriptedApi, source: Sandbox, caller: AsyncClient
) -> None:
    taken = await caller.wait_for_snapshot(await caller.create_snapshot(A), timeout=10 * PATIENCE)
    storage_class(api, FOLDERS)
    words = f"made by {FOLDERS}, and the snapshot is of {DRIVER}"
    with pytest.raises(errors.FailedPrecondition, match=words) as refused:
        await caller.clone(A, clone_id=B)
    assert refused.value.reason == "CLASS_OF_ANOTHER_DRIVER"
    with pytest.raises(errors.FailedPrecondition, match=words):
        await caller.create("demo", sandbox_id=B, snapshot_id=taken.snapshot_id)
    storage_class(api, DRIVER)
    await caller.create("demo", sandbox_id=B, snapshot_id=taken.snapshot_id)
    await rig.settled(B, Phase.RUNNING)


@pytest.mark.slow
async def test_no_claim_is_made_of_a_class_of_another_driver(rig: Rig, api: ScriptedApi, source: Sandbox) -> None:
    await rig.suspend()
    made = await clone(rig, source)
    storage_class(api, FOLDERS)
    await rig.restart()
    await failed(rig, f"made by {FOLDERS}")
    assert resources.claim_name(made) not in api.objects[CLAIMS]
    storage_class(api, "kubernetes.io/aws-ebs")
    await failed(rig, "made by ebs.csi.aws.com")
    storage_class(api, DRIVER)
    await rig.settled(B, Phase.RUNNING)


async def test_a_disk_that_was_made_by_hand_is_copied_only_where_its_driver_is_known(
    rig: Rig, api: ScriptedApi, source: Sandbox
) -> None:
    claim = api.objects[CLAIMS][CLAIM]
    meta = claim["metadata"]
    kept = {name: value for name, value in meta["annotations"].items() if name != PROVISIONER}
    api.put(CLAIMS, claim | {"metadata": meta | {"annotations": kept}})
    await clone(rig, source)
    await failed(rig, "let the service get volumesnapshotcontents")
    api.cluster.contents["content"] = DRIVER
    await rig.settled(B, Phase.RUNNING)
