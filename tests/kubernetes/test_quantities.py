"""What the service says of a quantity is what the API server says of it, but for the white space around it that only the
API server removes."""

import urllib.error

import pytest
from sandbox_server.domain import check
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.spec import Resources, Storage

from tests.kubernetes.ground import KubernetesGround
from tests.support import samples
from tests.support.rig import Rig

A = "quantities-a"
TAKEN = ["1e9", "1E9", "1e+9", "1e09", "536870912", ".5Gi", "5.Mi", "+1Gi", "0.0625Gi", "1.1Gi", "128974848000m", "1G"]
REFUSED = ["5GiB", "1e", "1e+", "1e1.5", "1.2.3", "1,5Gi", "5 Gi", "64K", "1gi", "++1", "0x10", "-1Gi", "1_000"]


def accepted(ground: KubernetesGround, memory: str) -> bool:
    """Whether the API server takes a claim of that size; nothing is made."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": memory}}}
    try:
        claim = {"metadata": {"name": "trial"}, "spec": spec}
        ground.cluster.request("POST", ground.path("persistentvolumeclaims") + "?dryRun=All", claim)
    except urllib.error.HTTPError as error:
        assert error.code in (400, 422), error.read()
        return False
    return True


@pytest.mark.find(38)
async def test_a_quantity_is_taken_where_the_api_server_takes_it(ground: KubernetesGround) -> None:
    for value in TAKEN + REFUSED:
        assert accepted(ground, value) == (value in TAKEN), value
        assert (check.disk.fits(value) is not None) == (value in TAKEN), value
        assert (check.memory.fits(value) is not None) == (value in TAKEN), value


@pytest.mark.find(38)
async def test_objects_with_every_form_of_a_quantity_are_written_once(rig: Rig, ground: KubernetesGround) -> None:
    resources = Resources(".25", "1000000u", "0.0625Gi", "1e9")
    spec = samples.spec(resources=resources, storage=Storage("1.1Gi", "", "ReadWriteOnce"))
    await rig.create(A, spec=spec)
    await rig.settled(A, Phase.RUNNING)
    path = ground.path("statefulsets", A, "apis/apps/v1")
    made = ground.cluster.request("GET", path)["metadata"]
    await rig.env(A, A="1")
    await rig.settled(A, Phase.RUNNING)
    # One rollout and no more: a canonical form in the answer is no difference.
    assert ground.cluster.request("GET", path)["metadata"]["generation"] == made["generation"] + 1
