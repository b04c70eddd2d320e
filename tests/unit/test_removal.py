"""What is asked to go with a sandbox, and what stays."""

import dataclasses
from typing import Any

import pytest
from sandbox_server import engines
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import DesiredState
from sandbox_server.engines.kubernetes import manifests, removal, resources
from sandbox_server.engines.kubernetes.view import View

from tests.support import samples
from tests.support.objects import HELD, Api, begun, made

SANDBOX = samples.sandbox(desired=DesiredState.DELETED)
KEEPS = dataclasses.replace(SANDBOX, keep_volume=True)
NAMES = resources.names(SANDBOX)
GOING = {"deletionTimestamp": "2026-01-02T03:04:05Z"}
OWNED = {"ownerReferences": [{"kind": "StatefulSet", "name": SANDBOX.id}]}


@pytest.fixture
def view() -> View:
    return View(None, SANDBOX.namespace, lambda _: None, Pace())  # type: ignore[arg-type]


def claim(**metadata: Any) -> Any:
    return made(SANDBOX, NAMES.claim.name, metadata)


def asked(api: Api) -> set[str]:
    return {name for call, name in api.calls if call == "delete"}


@pytest.mark.find(20)
async def test_kept_disk_stays_and_a_placeholder_in_its_place_goes(view: View) -> None:
    api = Api(claim())
    await removal.remove(begun(view, api, KEEPS))
    assert asked(api) == set()
    await removal.remove(begun(view, api, SANDBOX))
    assert asked(api) == {NAMES.claim.name}
    api = Api(claim(annotations={manifests.PLACEHOLDER: ""}))
    await removal.remove(begun(view, api, KEEPS))
    assert asked(api) == {NAMES.claim.name}


async def test_object_that_is_being_removed_is_not_asked_for_again(view: View) -> None:
    owned = {manifests.UID: SANDBOX.uid, manifests.ENVIRONMENTS: NAMES.secret.name}
    service = made(SANDBOX, NAMES.service.name, GOING | {"annotations": owned})
    view.services.shown(service)
    api = Api(claim(**GOING), service, made(SANDBOX, NAMES.secret.name))
    await removal.remove(begun(view, api, SANDBOX))
    assert asked(api) == {NAMES.secret.name}


@pytest.mark.fault(55)
async def test_workload_is_removed_as_it_was_seen_and_after_its_pod(view: View) -> None:
    workload = made(SANDBOX, SANDBOX.id)
    view.stateful_sets.shown(workload)
    api = Api(claim(), workload)
    write = begun(view, api, SANDBOX)
    await removal.remove_workload(write.api, view, SANDBOX, HELD)
    assert api.calls == [("delete", SANDBOX.id)]
    assert api.preconditions == [(workload.metadata.uid, workload.metadata.resourceVersion, True)]


@pytest.mark.fault(55)
@pytest.mark.parametrize("desired", DesiredState)
async def test_workload_is_not_removed_when_a_disk_that_stays_would_go_with_it(
    view: View, desired: DesiredState
) -> None:
    workload = made(SANDBOX, SANDBOX.id)
    view.stateful_sets.shown(workload)
    api = Api(claim(**OWNED), workload)
    kept = dataclasses.replace(KEEPS, desired=desired)
    with pytest.raises(engines.Busy, match="would go with its owner: StatefulSet demo-1"):
        await removal.remove_workload(begun(view, api, kept).api, view, kept, HELD)
    freed = dataclasses.replace(SANDBOX, desired=desired)
    if desired is not DesiredState.DELETED:
        with pytest.raises(engines.Busy):
            await removal.remove_workload(begun(view, api, freed).api, view, freed, HELD)
        assert api.calls == []
    else:
        await removal.remove_workload(begun(view, api, freed).api, view, freed, HELD)
        assert api.calls == [("delete", SANDBOX.id)]
