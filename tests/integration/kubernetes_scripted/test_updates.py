"""What an update of the spec changes of the objects of a sandbox."""

import asyncio
import dataclasses

import pytest
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.spec import Port, Readiness, Resources

from tests.support.rig import FAST, A, Rig
from tests.support.scripted import CLAIM, CLAIMS, INGRESSES, PODS, SERVICES, SETS
from tests.support.scripted_api import ScriptedApi

GUARD = 0.3


@pytest.fixture
def pace() -> Pace:
    return dataclasses.replace(FAST, controller_guard=GUARD)


async def test_an_update_changes_the_objects_and_leaves_the_claim_alone(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.update(A, command=("run",), readiness=Readiness("/up"))
    await rig.settled(A, Phase.RUNNING)
    claim = api.objects[CLAIMS][CLAIM]
    await rig.update(
        A,
        image="registry.example/sandbox:2",
        command=(),
        ports=(Port("web", 8080),),
        readiness=Readiness(tcp_port=8080),
        resources=Resources("200m", "2", "512Mi", "2Gi"),
        labels={"tier": "web", "other.example/x": "not-on-objects"},
        grace_period_seconds=7,
    )
    after = await rig.settled(A, Phase.RUNNING)
    assert after.generation == 3
    made = api.objects[SETS][A]
    template = made["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert made["metadata"]["labels"]["tier"] == template["metadata"]["labels"]["tier"] == "web"
    assert "other.example/x" not in made["metadata"]["labels"]
    assert template["spec"]["terminationGracePeriodSeconds"] == 7
    assert (container["image"], container.get("command")) == ("registry.example/sandbox:2", None)
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "2Gi"}
    assert container["readinessProbe"]["tcpSocket"] == {"port": 8080}
    assert "httpGet" not in container["readinessProbe"]
    assert [one["port"] for one in api.objects[SERVICES][f"{A}-service"]["spec"]["ports"]] == [8080, 7681]
    (rule,) = api.objects[INGRESSES][f"{A}-app-ingress"]["spec"]["rules"]
    assert rule["http"]["paths"][0]["backend"]["service"]["port"] == {"number": 8080}
    assert api.objects[CLAIMS][CLAIM] == claim


@pytest.mark.slow
async def test_other_labels_change_the_stateful_set_and_leave_the_pod_alone_whatever_its_state(
    rig: Rig, api: ScriptedApi
) -> None:
    await rig.create(A)
    running = await rig.settled(A, Phase.RUNNING)
    pod = api.objects[PODS][f"{A}-0"]["metadata"]
    await rig.ground.crash(running)
    await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    await rig.update(A, labels={"tier": "web"})
    failing = await rig.until(A, lambda one: one.status.phase is Phase.ERROR and one.applied_generation == 2)
    # A broken pod of an older template would be replaced by now.
    await asyncio.sleep(4 * GUARD)
    made = api.objects[SETS][A]
    assert made["metadata"]["labels"]["tier"] == "web"
    assert "tier" not in made["spec"]["template"]["metadata"]["labels"]
    assert api.objects[PODS][f"{A}-0"]["metadata"]["uid"] == pod["uid"]
    await rig.ground.heal(failing)
    await rig.settled(A, Phase.RUNNING)
    await rig.update(A, args=("x",))
    await rig.settled(A, Phase.RUNNING)
    assert api.objects[SETS][A]["spec"]["template"]["metadata"]["labels"]["tier"] == "web"
