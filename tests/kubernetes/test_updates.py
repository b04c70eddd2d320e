"""Updates of the spec on the real control plane."""

import pytest
from sandbox_server.domain.phase import Phase, Reason

from tests.kubernetes.ground import KubernetesGround
from tests.support.rig import A, Rig


@pytest.mark.fault(29)
@pytest.mark.fault(66)
async def test_an_image_that_cannot_be_pulled_is_repaired_by_the_next_update_without_help(
    rig: Rig, ground: KubernetesGround
) -> None:
    await rig.create(A)
    before = await rig.settled(A, Phase.RUNNING)
    good = before.spec.image
    await rig.update(A, image="registry.example/sandbox:missing")
    failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    assert failed.status.reason is Reason.IMAGE_PULL
    await rig.update(A, image=good, command=("run",), labels={"tier": "web"}, grace_period_seconds=2)
    after = await rig.settled(A, Phase.RUNNING)
    assert (after.generation, after.volume_uid) == (3, before.volume_uid)
    pod = ground.cluster.request("GET", f"/api/v1/namespaces/{ground.namespace}/pods/{A}-0")
    (container,) = [one for one in pod["spec"]["containers"] if one["name"] == "sandbox"]
    assert (container["image"], container["command"]) == (good, ["run"])
    assert pod["metadata"]["labels"]["tier"] == "web"
    assert pod["spec"]["terminationGracePeriodSeconds"] == 2
    await rig.update(A, labels={"tier": "db", "team": "x"})
    await rig.settled(A, Phase.RUNNING)
    same = ground.cluster.request("GET", f"/api/v1/namespaces/{ground.namespace}/pods/{A}-0")
    assert (same["metadata"]["uid"], same["metadata"]["labels"]) == (pod["metadata"]["uid"], pod["metadata"]["labels"])
    await rig.update(A, command=())
    cleared = await rig.settled(A, Phase.RUNNING)
    stateful_set = ground.cluster.request("GET", f"/apis/apps/v1/namespaces/{ground.namespace}/statefulsets/{A}")
    template = stateful_set["spec"]["template"]
    assert "command" not in template["spec"]["containers"][0]
    assert stateful_set["metadata"]["labels"]["team"] == template["metadata"]["labels"]["team"] == "x"
    assert cleared.generation == 5
