"""A fresh disk is filled from the image once: the pod's init container, admitted in a restricted namespace."""

from typing import Any

import pytest
from sandbox_server.domain.phase import Phase

from tests.kubernetes.ground import KubernetesGround
from tests.support.rig import Rig

A = "home-a"


def pod(ground: KubernetesGround) -> Any:
    return ground.cluster.request("GET", ground.path("pods", f"{A}-0"))


@pytest.mark.find(23)
async def test_only_pods_of_a_fresh_disk_fill_it_and_no_pod_restarts_for_it(rig: Rig, ground: KubernetesGround) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    first = pod(ground)
    assert [one["name"] for one in first["spec"]["initContainers"]] == ["copy-image-home"]
    await rig.restart()
    await rig.settled(A, Phase.RUNNING)
    assert pod(ground)["metadata"]["uid"] == first["metadata"]["uid"]
    for phase in (Phase.STOPPED, Phase.RUNNING):
        await rig.begin(A, phase)
        await rig.settled(A, phase)
    later = pod(ground)
    assert "initContainers" not in later["spec"]
    mounts = [one["spec"]["containers"][0]["volumeMounts"] for one in (first, later)]
    assert mounts[0] == mounts[1] == [{"name": "vn-homevn-agent", "mountPath": "/home/agent", "subPath": "home"}]
    rig.check_history()
