"""The fields of a status that an event names as changed are those that differ in the messages."""

import dataclasses
import itertools
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server.domain import changes
from sandbox_server.domain.observed import Exit
from sandbox_server.domain.phase import ConditionType, DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import Condition, DisruptionStatus, Sandbox, VolumeStatus
from sandbox_server.domain.spec import Resources
from sandbox_server.rpc import render

from tests.robustness.checker import differing
from tests.support import samples

TIMES = st.sampled_from([samples.NOW, samples.NOW + timedelta(seconds=1)])
NUMBERS = st.integers(0, 2)
TEXTS = st.sampled_from(["", "a", "b"])
REASONS = st.sampled_from([Reason.ACCEPTED, Reason.READY, Reason.CRASH_LOOP, Reason(977)])
CONDITIONS = st.builds(
    Condition, st.sampled_from(list(ConditionType)), st.sampled_from([True, False, None]), REASONS, TIMES
)
STATUSES = st.fixed_dictionaries(
    {},
    optional={
        "phase": st.sampled_from(list(Phase)),
        "reason": REASONS,
        "message": TEXTS,
        "transition_time": TIMES,
        "observed_generation": NUMBERS,
        "conditions": st.lists(CONDITIONS, max_size=2).map(tuple),
        "restart_count": NUMBERS,
        "last_exit": st.none() | st.builds(Exit, NUMBERS, TEXTS, TEXTS),
        "volume": st.none() | st.builds(VolumeStatus, TEXTS, TEXTS, st.booleans()),
        "last_disruption": st.none() | st.builds(DisruptionStatus, REASONS, TEXTS, TIMES, NUMBERS),
    },
)
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "labels": st.sampled_from([{}, {"a": "1"}, {"a": "2"}]),
        "resources": st.sampled_from([Resources("100m", "1", "256Mi", "1Gi"), Resources("200m", "1", "256Mi", "1Gi")]),
        "image": st.sampled_from(["one:1", "two:2"]),
    },
)
SANDBOXES = st.fixed_dictionaries(
    {"generation": NUMBERS},
    optional={"desired": st.sampled_from(list(DesiredState)), "applied_generation": NUMBERS, "volume_uid": TEXTS},
)
FIRST = samples.sandbox()


def made(status: dict[str, Any], spec: dict[str, Any], sandbox: dict[str, Any]) -> Sandbox:
    return dataclasses.replace(FIRST, status=samples.status(**status), spec=samples.spec(**spec), **sandbox)


VALUES = st.builds(made, STATUSES, SPECS, SANDBOXES)


def shown(sandbox: Sandbox) -> pb.SandboxStatus:
    return pb.SandboxStatus(**render.status(samples.event(sandbox)))


@given(VALUES, VALUES)
@pytest.mark.slow
def test_named_fields_differ_and_all_others_are_equal(before: Sandbox, after: Sandbox) -> None:
    assert set(changes.between(before, after)) == differing(shown(before), shown(after))


@given(st.lists(VALUES, min_size=2, max_size=5))
@pytest.mark.slow
def test_named_fields_of_each_event_turn_the_former_status_into_the_new_one(history: list[Sandbox]) -> None:
    seen = shown(history[0])
    for before, after in itertools.pairwise(history):
        following = shown(after)
        for name in changes.between(before, after):
            seen.ClearField(name)  # type: ignore[arg-type]
            only = pb.SandboxStatus()
            only.CopyFrom(following)
            for other, _ in following.ListFields():
                if other.name != name:
                    only.ClearField(other.name)  # type: ignore[arg-type]
            seen.MergeFrom(only)
        assert seen == following


def test_every_field_of_a_status_is_compared_but_its_sequence() -> None:
    fields = [one.name for one in pb.SandboxStatus.DESCRIPTOR.fields if one.name not in ("sequence", "stale", "usage")]
    assert list(changes._FIELDS) == fields
