"""The files of a Deployment of a former system are moved to a disk, and the sandbox that has them takes its place."""

from pathlib import Path
from typing import Any

from sandbox_server.adoption import Adoption, Wanted
from sandbox_server.domain.adoption import Entry, Outcome
from sandbox_server.domain.event import Cause, Kind
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines import kubernetes
from sandbox_server.settings import Defaults

from tests.support import former_objects as former
from tests.support import homes
from tests.support.former_objects import DEPLOYMENTS, OLDER, REPLICA_SETS
from tests.support.rig import Rig
from tests.support.scripted import CLAIMS, INGRESSES, PODS, SERVICES, until
from tests.support.scripted_api import ScriptedApi

CLAIM = f"vn-homevn-agent-{OLDER}-0"


async def adopt(rig: Rig, *, keeps_pods: bool = False, dry: bool = False, undo: bool = False) -> Entry:
    settings = rig.ground.settings
    found = await kubernetes.discover(settings.kubernetes, settings.pace, "default", "", "", Defaults())
    wanted = Wanted("default", "default", keeps_pods, dry, Cause(Kind.MUTATION, "test"))
    adoption = Adoption(rig.store, rig.engine)
    (entry,) = await (adoption.give_back if undo else adoption.adopt)(wanted, found)
    return entry


def made(api: ScriptedApi, **spec: Any) -> Path:
    """A Deployment that runs; the home of its pod, which has files."""
    objects = former.objects("deployment.yaml")
    former.of_kind(objects, "Deployment")["spec"] |= spec
    former.put(api, objects)
    if spec.get("replicas") == 0:
        return Path()
    container = api.kubelet.container(former.pod_of(api, OLDER))
    assert container is not None
    home = container / "home"
    home.mkdir()
    homes.fill(home)
    return home


def disk(api: ScriptedApi) -> Path:
    return api.kubelet.disk(api.objects[CLAIMS][CLAIM]["metadata"]["uid"])


async def settled(rig: Rig, phase: Phase, generation: int = 1) -> Sandbox:
    return await rig.until(OLDER, lambda one: one.status.phase is phase and one.generation == generation)


async def test_a_deployment_is_moved_with_every_file_and_its_urls(api: ScriptedApi, rig: Rig) -> None:
    home = made(api)
    files, urls = homes.snapshot(home), {name: one["spec"] for name, one in api.objects[INGRESSES].items()}
    entry = await adopt(rig)
    assert (entry.kind, entry.outcome) == ("Deployment", Outcome.ADOPTED)
    await settled(rig, Phase.RUNNING)
    await until(lambda: not api.objects[DEPLOYMENTS] and not api.objects[REPLICA_SETS])
    await until(lambda: [*api.objects[PODS]] == [f"{OLDER}-0"])
    assert homes.snapshot(disk(api)) == files
    assert (disk(api) / "sparse").stat().st_blocks < 100
    for name, spec in urls.items():
        assert api.objects[INGRESSES][name]["spec"] == spec
    service = api.objects[SERVICES][f"{OLDER}-service"]["spec"]
    assert service["clusterIP"] == "10.96.14.4"
    labels = api.objects[PODS][f"{OLDER}-0"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert len(api.starts) == 1
    said = {one.status.reason for one in rig.history}
    assert Reason.HOME_MOVING in said
    assert Phase.ERROR not in {one.status.phase for one in rig.history}
