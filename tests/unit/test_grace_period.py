"""The grace period: where it comes from, what it is in the pod, and what the status says of it."""

import dataclasses
import json

import msgspec
import pytest
import yaml
from pydantic import ValidationError
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server import settings
from sandbox_server.domain import errors, lifecycle
from sandbox_server.domain.observed import Observed, Pod, Volume, Workload
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.domain.spec import SandboxSpec
from sandbox_server.domain.tenant import Tenant
from sandbox_server.engines import kubernetes
from sandbox_server.rpc import convert
from sandbox_server.settings import Kubernetes, Settings

from tests.support import samples

pytestmark = [pytest.mark.find(15), pytest.mark.fault(65)]


def asked(chosen: Settings, **spec: int) -> int:
    request = pb.CreateSandboxRequest(spec=pb.SandboxSpec(project="demo", **spec))
    return convert.creation(Tenant("default", ("default",)), request, chosen.defaults, chosen.policy)[
        1
    ].grace_period_seconds


def test_a_spec_without_a_grace_period_has_the_services() -> None:
    assert asked(Settings()) == 10
    assert asked(Settings(grace_period=25)) == 25
    assert asked(Settings(grace_period=25), grace_period_seconds=0) == 0
    assert asked(Settings(), grace_period_seconds=3600) == 3600


@pytest.mark.parametrize("seconds", [-1, 3601, 2**31 - 1, -(2**31)])
def test_a_grace_period_out_of_bounds_is_named(seconds: int) -> None:
    with pytest.raises(errors.Invalid) as caught:
        asked(Settings(), grace_period_seconds=seconds)
    (violation,) = caught.value.violations
    assert (violation.field, violation.description) == ("spec.grace_period_seconds", "must be from 0 to 3600 seconds")
    with pytest.raises(ValidationError, match="grace"):
        settings.load([f"--grace-period={seconds}"])


def test_a_stored_spec_without_a_grace_period_keeps_the_ten_seconds_that_its_pod_has() -> None:
    document = json.loads(msgspec.json.encode(samples.spec()))
    del document["grace_period_seconds"]
    assert msgspec.json.decode(json.dumps(document), type=SandboxSpec).grace_period_seconds == 10


@pytest.mark.parametrize(("seconds", "in_the_pod"), [(0, 1), (1, 1), (10, 10), (3600, 3600)])
def test_the_pod_has_the_grace_period_and_one_process_namespace(seconds: int, in_the_pod: int) -> None:
    sandbox = samples.sandbox(spec=samples.spec(grace_period_seconds=seconds))
    for shared in (True, False):
        *_, made = yaml.safe_load_all(kubernetes.render(sandbox, {}, Kubernetes(share_process_namespace=shared)))
        pod = made["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] == in_the_pod
        assert pod["shareProcessNamespace"] is shared
    assert Settings().share_process_namespace is True


@pytest.mark.parametrize(
    ("desired", "phase", "reason", "said"),
    [
        (DesiredState.RUNNING, Phase.UPDATING, Reason.ROLLING_OUT, "the pod is being replaced"),
        (DesiredState.STOPPED, Phase.STOPPING, Reason.POD_TERMINATING, "the pod is being removed"),
        (DesiredState.DELETED, Phase.TERMINATING, Reason.POD_TERMINATING, "the pod is being removed"),
    ],
)
@pytest.mark.parametrize("terminating", [True, False])
def test_the_status_says_what_is_waited_for_and_for_how_long(
    desired: DesiredState, phase: Phase, reason: Reason, said: str, terminating: bool
) -> None:
    sandbox = samples.sandbox(
        spec=samples.spec(grace_period_seconds=7),
        desired=desired,
        generation=2,
        applied_generation=2,
        volume_uid="v",
        status=dataclasses.replace(samples.status(), observed_generation=1),
    )
    pod = Pod(owner=sandbox.uid, generation=1, ready=True, reason=Reason.READY, terminating=terminating)
    observed = Observed(
        workload=Workload(owner=sandbox.uid, generation=2, replicas=1, revision=0),
        pod=pod,
        volume=Volume(owner=sandbox.uid, uid="v", name="v", size="5Gi", bound=True),
    )
    decision = lifecycle.decide(sandbox, observed, samples.NOW)
    assert (decision.phase, decision.reason) == (phase, reason)
    assert decision.message == f"{said}: waits for the process to end, at most 7 s"
