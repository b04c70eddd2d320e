"""How the claim of a sandbox is made where its name may be taken."""

from typing import Any

import pytest
from sandbox_server import engines
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Reason
from sandbox_server.engines.kubernetes import disk, manifests, resources
from sandbox_server.engines.kubernetes.objects import Object
from sandbox_server.engines.kubernetes.view import View
from sandbox_server.settings import Settings

from tests.support import samples
from tests.support.objects import Api, begun, made

SANDBOX = samples.sandbox()
FORMER = samples.sandbox()
"""A sandbox that had the same id before."""
OBJECTS = manifests.objects(SANDBOX, {}, 1, Settings().kubernetes)
CLAIM, SERVICE = OBJECTS.claim, made(SANDBOX, OBJECTS.service.reference.name)
NAME = CLAIM.reference.name


@pytest.fixture
def view() -> View:
    return View(None, SANDBOX.namespace, lambda _: None, Pace())  # type: ignore[arg-type]


async def make(view: View, *found: Object) -> Api:
    api = Api(*found)
    await disk.make(begun(view, api, SANDBOX), CLAIM, SERVICE)
    return api


async def test_claim_that_is_there_already_is_taken_and_shown_at_once(view: View) -> None:
    api = await make(view, made(SANDBOX, NAME, status={"phase": "Bound"}))
    volume = view.claims.get(NAME)
    assert volume is not None and volume.uid == f"{NAME}-uid"
    assert api.calls == [("apply", NAME)]


@pytest.mark.fault(24)
async def test_claim_of_another_owner_is_left_alone(view: View) -> None:
    with pytest.raises(engines.Refused) as refused:
        await make(view, made(FORMER, NAME, status={"phase": "Lost"}))
    assert refused.value.fault.reason is Reason.NAME_CONFLICT


@pytest.mark.fault(57)
@pytest.mark.parametrize("pod", [False, True])
@pytest.mark.parametrize(
    "claim",
    [
        {"status": {"phase": "Lost"}},
        {"metadata": {"deletionTimestamp": "2026-01-02T03:04:05Z"}},
        {"metadata": {"annotations": {manifests.PLACEHOLDER: ""}}},
    ],
    ids=["lost", "being removed", "placeholder"],
)
async def test_claim_that_has_to_go_first_is_removed_and_reported_unless_its_pod_still_ends(
    view: View, claim: dict[str, Any], pod: bool
) -> None:
    api = Api(made(SANDBOX, NAME, **claim))
    if pod:
        view.pods.shown(made(SANDBOX, resources.pod_name(SANDBOX)))
    write = begun(view, api, SANDBOX)
    with pytest.raises(engines.Unreachable, match="has to go before there can be a fresh one") as waits:
        await disk.make(write, CLAIM, SERVICE)
    assert isinstance(waits.value, engines.Busy) is not pod
    assert api.calls == [("apply", NAME), ("delete", NAME)]


@pytest.mark.fault(67)
async def test_scaling_down_for_a_fresh_claim_counts_as_an_act(view: View) -> None:
    workload = made(SANDBOX, SANDBOX.id, spec={"replicas": 1})
    view.stateful_sets.shown(workload)
    api = Api(made(SANDBOX, NAME, status={"phase": "Lost"}), workload)
    write = begun(view, api, SANDBOX)
    with pytest.raises(engines.Busy):
        await disk.make(write, CLAIM, SERVICE)
    assert api.calls == [("apply", NAME), ("apply", SANDBOX.id), ("delete", NAME)]
    assert write.contest.count == 1
