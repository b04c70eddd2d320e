"""Who can remove a cause: for every reason, in the domain, in the contract and in docs/lifecycle.md."""

from pathlib import Path

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server.domain import remedy
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.rpc import render

from tests.support import samples

PAGE = Path(__file__).parents[3] / "docs" / "lifecycle.md"
pytestmark = pytest.mark.find(7)


def test_every_reason_has_a_remedy_and_says_why() -> None:
    assert set(remedy.REMEDIES) == set(Reason)
    assert all(why for _, why in remedy.REMEDIES.values())


@pytest.mark.parametrize("reason", Reason)
def test_only_a_reached_state_needs_no_remedy(reason: Reason) -> None:
    reached = reason in (Reason.READY, Reason.POD_GONE, Reason.DELETED, Reason.VOLUME_KEPT, Reason.GIVEN_BACK)
    assert (remedy.of(reason) is remedy.Remedy.UNSPECIFIED) is reached


def test_remedies_are_those_of_the_contract() -> None:
    assert {f"REMEDY_{one.name}": one.value for one in remedy.Remedy} == dict(pb.Remedy.items())


@pytest.mark.parametrize("reason", Reason)
def test_page_says_of_every_reason_who_can_remove_it_and_why(reason: Reason) -> None:
    who, why = remedy.REMEDIES[reason]
    named = "" if who is remedy.Remedy.UNSPECIFIED else who.name
    assert f"| {reason.name} | {named} | {why} |" in PAGE.read_text().splitlines()


@pytest.mark.parametrize("reason", Reason)
def test_status_says_who_can_remove_its_cause(reason: Reason) -> None:
    sandbox = samples.sandbox(status=samples.status(phase=Phase.ERROR, reason=reason))
    told = pb.GetStatusResponse.FromString(render.Encoder().status(samples.event(sandbox))).status
    assert told.remedy == remedy.of(reason).value
