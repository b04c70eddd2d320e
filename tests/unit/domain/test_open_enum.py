"""Values of a newer release."""

import msgspec
import pytest
from sandbox_server.domain import remedy
from sandbox_server.domain.event import Kind
from sandbox_server.domain.phase import ConditionType, DesiredState, Phase, Reason


@pytest.mark.parametrize("kind", [Reason, Phase, DesiredState, ConditionType, Kind])
def test_number_of_a_newer_release_is_one_value_beside_the_members(kind: type[Reason]) -> None:
    members = list(kind)
    unknown = kind(977)
    assert unknown is kind(977) is msgspec.json.decode(b"977", type=kind)
    assert (unknown.name, unknown.value) == ("UNKNOWN_977", 977)
    assert msgspec.json.encode(unknown) == b"977"
    assert list(kind) == members
    with pytest.raises(ValueError, match="READY"):
        kind("READY")


def test_reason_of_a_newer_release_has_no_remedy_that_is_known() -> None:
    assert remedy.of(Reason(977)) is remedy.Remedy.UNSPECIFIED
