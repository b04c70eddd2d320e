"""The enums of the domain are those of the contract, by name and number."""

import enum
from typing import Any

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server.domain.phase import ConditionType, DesiredState, Phase, Reason


@pytest.mark.parametrize(
    ("ours", "theirs", "prefix"),
    [
        (Reason, pb.Reason, "REASON_"),
        (Phase, pb.Phase, "PHASE_"),
        (DesiredState, pb.DesiredState, "DESIRED_STATE_"),
        (ConditionType, pb.ConditionType, "CONDITION_TYPE_"),
    ],
)
def test_names_and_numbers_are_those_of_the_contract(ours: type[enum.Enum], theirs: Any, prefix: str) -> None:
    assert {prefix + one.name: one.value for one in ours} | {f"{prefix}UNSPECIFIED": 0} == dict(theirs.items())
