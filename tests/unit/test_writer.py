"""How a workload is scaled down before anything is removed, and what the answer to a write says of the cluster."""

from typing import Any

import pytest
from sandbox_server import engines
from sandbox_server.domain.pace import Pace
from sandbox_server.engines.kubernetes import manifests, resources, writer
from sandbox_server.engines.kubernetes.objects import Known, Object
from sandbox_server.engines.kubernetes.view import View
from sandbox_server.settings import Settings

from tests.support import samples
from tests.support.objects import Api, begun, made

SANDBOX = samples.sandbox()
FORMER = samples.sandbox()
"""A sandbox that had the same id before."""
NAMES = resources.names(SANDBOX)
GOING = {"deletionTimestamp": "2026-01-02T03:04:05Z", "finalizers": ["example.com/hold"]}


@pytest.fixture
def view() -> View:
    return View(None, SANDBOX.namespace, lambda _: None, Pace())  # type: ignore[arg-type]


def workload(replicas: int = 0, observed: int = 3, owner: Any = SANDBOX, **metadata: Any) -> Object:
    """The StatefulSet at its third generation. Its controller has seen the one that `observed` says."""
    annotations = {manifests.UID: owner.uid, manifests.GENERATION: "1"}
    metadata = {"generation": 3, "annotations": annotations, **metadata}
    return made(owner, SANDBOX.id, metadata, spec={"replicas": replicas}, status={"observedGeneration": observed})


@pytest.mark.parametrize(
    ("found", "pod", "at_rest"),
    [
        (None, False, True),
        (workload(), False, True),
        (workload(), True, False),
        (workload(observed=2), False, False),
        (workload(1, **GOING), False, True),
        (workload(1, **GOING), True, False),
        (workload(1, owner=FORMER), False, True),
        (workload(observed=2, owner=FORMER), False, True),
    ],
    ids=[
        "no workload",
        "scaled down",
        "its pod still there",
        "its controller has not seen it",
        "being removed",
        "being removed after its pod",
        "a former sandbox's",
        "a former sandbox's that its controller has not seen",
    ],
)
async def test_workload_is_at_rest_when_nothing_is_made_any_more_and_the_pod_is_gone(
    view: View, found: Object | None, pod: bool, at_rest: bool
) -> None:
    if found is not None:
        view.stateful_sets.shown(found)
    if pod:
        view.pods.shown(made(SANDBOX, resources.pod_name(SANDBOX)))
    assert await begun(view, Api(), SANDBOX).scale_down() is at_rest


async def test_change_by_others_during_a_write_does_not_put_the_version_of_the_answer_in_doubt(
    view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubts: list[None] = []
    monkeypatch.setattr(view.services, "_rewound", lambda: doubts.append(None))
    ours = made(SANDBOX, NAMES.service.name)
    view.services.shown(ours)
    api = Api(ours)
    api.meanwhile = lambda: view.services.shown(made(SANDBOX, NAMES.service.name))
    resource = manifests.objects(SANDBOX, {}, 1, Settings().kubernetes).service
    write = begun(view, api, SANDBOX)
    await writer.apply(write.api, view.services, resource, Known.of(ours), write.fence)
    assert (api.calls, doubts) == ([("apply", NAMES.service.name)], [])


def edited(found: Object, generation: int = SANDBOX.generation, **metadata: Any) -> Object:
    """The object after somebody has changed it."""
    annotations = {manifests.UID: SANDBOX.uid, manifests.GENERATION: str(generation)}
    return made(SANDBOX, found.metadata.name, {"annotations": annotations, **metadata})


@pytest.mark.fault(11)
async def test_stateful_set_that_has_changed_is_not_written_before_it_is_decided_on_again(view: View) -> None:
    known = workload(1)
    view.stateful_sets.shown(known)
    write = begun(view, Api(edited(known)), SANDBOX)
    with pytest.raises(engines.Outdated):
        await write.write(manifests.stateful_set(SANDBOX, 0, Settings().kubernetes))


async def test_stateful_set_that_lost_its_label_is_written_since_it_is_never_shown(view: View) -> None:
    api = Api(edited(workload(1), labels={}))
    await begun(view, api, SANDBOX).write(manifests.stateful_set(SANDBOX, 1, Settings().kubernetes))
    assert api.objects[SANDBOX.id].metadata.labels[manifests.ID] == SANDBOX.id


@pytest.mark.fault(11)
@pytest.mark.parametrize(("generation", "written"), [(SANDBOX.generation, True), (SANDBOX.generation + 1, False)])
async def test_other_object_that_has_changed_is_written_unless_it_is_of_a_later_generation(
    view: View, generation: int, written: bool
) -> None:
    known = made(SANDBOX, NAMES.service.name)
    view.services.shown(known)
    api = Api(changed := edited(known, generation))
    write = begun(view, api, SANDBOX).write(manifests.objects(SANDBOX, {}, 1, Settings().kubernetes).service)
    if written:
        assert await write is not changed
    else:
        with pytest.raises(engines.Outdated):
            await write
        assert api.objects[NAMES.service.name] is changed


@pytest.mark.fault(11)
async def test_act_writes_to_the_objects_as_they_were_when_it_began(view: View) -> None:
    known = workload(1)
    view.stateful_sets.shown(known)
    api = Api(known)
    write = begun(view, api, SANDBOX)
    api.objects[SANDBOX.id] = later = edited(known)
    view.stateful_sets.shown(later)
    with pytest.raises(engines.Outdated):
        await write.write(manifests.stateful_set(SANDBOX, 0, Settings().kubernetes))
