"""What a view makes of the objects of a sandbox, of objects with its names that are not its own, and of events."""

import dataclasses
from typing import Any

import pytest
from sandbox_server.domain.observed import Observed
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import DesiredState, Reason
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.engines.kubernetes import manifests, observe, resources
from sandbox_server.engines.kubernetes.cache import Cache
from sandbox_server.engines.kubernetes.objects import Object
from sandbox_server.engines.kubernetes.view import View

from tests.support import samples
from tests.support.objects import made, read

SANDBOX = samples.sandbox()
FORMER = samples.sandbox()
"""A sandbox that had the same id before."""
NAMES = resources.names(SANDBOX)
POD = resources.pod_name(SANDBOX)
SCHEDULED = {"type": "PodScheduled", "status": "True"}
STARTED = {"type": "PodReadyToStartContainers", "status": "True"}
NOT_READY = {"type": "Ready", "status": "False", "reason": "ContainersNotReady"}


def pod(
    *conditions: dict[str, Any], owner: Sandbox = SANDBOX, state: dict[str, Any] | None = None, **status: Any
) -> Object:
    containers = [] if state is None else [{"name": "sandbox", "state": state}]
    return made(owner, POD, status={"conditions": list(conditions), "containerStatuses": containers, **status})


def event(about: Object, reason: str, message: str) -> Object:
    involved = {"kind": "Pod", "name": about.metadata.name, "uid": about.metadata.uid}
    return read({"metadata": {"name": "event"}, "involvedObject": involved, "reason": reason, "message": message})


@pytest.fixture
def changed() -> list[Key]:
    return []


@pytest.fixture
def view(changed: list[Key]) -> View:
    """A view without an API server, of a namespace in which the sandbox has every object but the pod."""
    view = View(None, SANDBOX.namespace, changed.append, Pace())  # type: ignore[arg-type]
    view.claims.shown(made(SANDBOX, NAMES.claim.name, status={"phase": "Bound"}))
    for reference in NAMES.watched:
        view.written[reference.kind].shown(made(SANDBOX, reference.name))
    changed.clear()
    return view


def events_of(view: View) -> Cache[tuple[str, int]]:
    return view.events._caches[0]


def observed(view: View, sandbox: Sandbox = SANDBOX) -> Observed:
    return view.observe(sandbox, None)


@pytest.mark.fault(24)
def test_object_of_a_former_sandbox_is_never_written_over(view: View) -> None:
    known = view.known(SANDBOX, NAMES.service)
    assert known is not None and known.uid == "demo-1-service-uid"
    view.services.shown(made(FORMER, NAMES.service.name))
    assert view.known(SANDBOX, NAMES.service) is None


@pytest.mark.find(10)
def test_disruption_of_a_former_sandboxs_pod_is_not_reported(view: View) -> None:
    view.pods.shown(pod(owner=FORMER, phase="Failed", reason="Evicted"))
    assert observed(view).disruption is None
    view.pods.shown(pod(phase="Failed", reason="Evicted"))
    disruption = observed(view).disruption
    assert disruption is not None and disruption.reason is Reason.EVICTED


@pytest.mark.find(20)
def test_placeholder_is_no_disk_and_shows_only_while_it_has_to_be_removed(view: View) -> None:
    view.claims.shown(made(SANDBOX, NAMES.claim.name, {"annotations": {manifests.PLACEHOLDER: ""}}))
    assert observed(view).volume is None
    deleted = dataclasses.replace(SANDBOX, desired=DesiredState.DELETED)
    assert observed(view, deleted).volume is not None
    assert observed(view, dataclasses.replace(deleted, keep_volume=True)).volume is None


def test_workload_is_incomplete_until_the_disk_was_made_and_not_when_a_known_disk_is_lost(view: View) -> None:
    complete = observed(view).workload
    assert complete is not None and complete.revision != observe.INCOMPLETE
    view.claims.forget(NAMES.claim.name)
    incomplete = observed(view).workload
    assert incomplete is not None and incomplete.revision == observe.INCOMPLETE
    lost = observed(view, dataclasses.replace(SANDBOX, volume_uid="lost")).workload
    assert lost is not None and lost.revision == complete.revision


def test_nothing_is_remembered_of_a_sandbox_that_is_forgotten(view: View) -> None:
    view.secrets.answered(made(SANDBOX, NAMES.secret.name), 0)
    view.pods.shown(pod(phase="Failed", reason="Evicted"))
    view.supplied(SANDBOX)
    view.forget(SANDBOX)
    assert view.secrets.get(NAMES.secret.name) is None
    assert (view._disrupted, view._supplied) == ({}, {})


@pytest.mark.find(12)
def test_event_explains_a_pod_without_a_message_and_hides_no_message(view: View) -> None:
    found = pod(SCHEDULED)
    view.pods.shown(found)
    events_of(view).shown(event(found, "FailedMount", "the device is busy"))
    seen = observed(view).pod
    assert seen is not None and (seen.reason, seen.message) == (Reason.CONTAINER_CREATING, "the device is busy")
    waiting = {"reason": "CreateContainerError", "message": "context deadline exceeded"}
    view.pods.shown(pod(SCHEDULED, STARTED, NOT_READY, state={"waiting": waiting}))
    seen = observed(view).pod
    assert seen is not None and (seen.reason, seen.message) == (Reason.CONTAINER_CREATING, waiting["message"])


@pytest.mark.find(12)
def test_answer_to_a_probe_explains_a_container_that_runs_and_no_closed_gate(view: View) -> None:
    running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    found = pod(SCHEDULED, NOT_READY, state=running)
    view.pods.shown(found)
    events_of(view).shown(event(found, "Unhealthy", "statuscode: 404"))
    seen = observed(view).pod
    assert seen is not None and (seen.message, seen.quoted) == (
        "the container runs; it is not ready yet: statuscode: 404",
        "statuscode: 404",
    )
    closed = {"type": "Ready", "status": "False", "reason": "ReadinessGatesNotReady", "message": "the gate is closed"}
    view.pods.shown(pod(SCHEDULED, closed, state=running))
    seen = observed(view).pod
    assert seen is not None and (seen.reason, seen.message) == (Reason.NOT_READY, "the gate is closed")


@pytest.mark.find(20)
def test_claim_of_any_ordinal_belongs_to_its_sandbox_by_its_name_alone(view: View, changed: list[Key]) -> None:
    for ordinal in (0, 1, 12):
        view.claims.shown(read({"metadata": {"name": f"vn-homevn-agent-demo-1-{ordinal}"}}))
    assert changed == [SANDBOX.key] * 3


@pytest.mark.fault(56)
def test_event_of_another_history_of_the_cluster_explains_why_there_is_no_pod(view: View) -> None:
    view.pods.shown(pod())
    involved = {"kind": "StatefulSet", "name": SANDBOX.id, "uid": view.stateful_sets.uid(SANDBOX.id)}
    words = "exceeded quota: pods"
    denied = read(
        {"metadata": {"name": "event"}, "involvedObject": involved, "reason": "FailedCreate", "message": words}
    )
    cache = events_of(view)
    cache.listed([], 1000, 0)
    observed(view)
    view.pods.forget(POD)
    cache.listed([cache.read(denied)], 1000, 0)
    workload = observed(view).workload
    assert workload is not None and workload.fault is None
    cache.listed([cache.read(denied)], 500, 1000)
    workload = observed(view).workload
    assert workload is not None and workload.fault is not None and workload.fault.message == words
