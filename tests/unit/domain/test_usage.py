"""When a disk is nearly full, and what a status says of it."""

import dataclasses
import itertools
from datetime import timedelta

import pytest
from sandbox_server.domain import lifecycle, status
from sandbox_server.domain.observed import Observed, Volume
from sandbox_server.domain.phase import ConditionType, Reason
from sandbox_server.domain.sandbox import Condition, Sandbox
from sandbox_server.domain.usage import Usage

from tests.support import samples

VOLUME = Volume(owner="", uid="", name="volume", size="5Gi", bound=True)


def used(percent: float, inodes: float = 0.0) -> Usage:
    return Usage(int(percent * 10**6), 10**8, int(inodes * 10**6), 10**8)


@pytest.mark.parametrize(
    ("usage", "before", "after"),
    [
        (used(89.9), None, False),
        (used(89.9), False, False),
        (used(90), None, True),
        (used(90), False, True),
        (used(100), False, True),
        (used(89.9), True, True),
        (used(85), True, True),
        (used(84.9), True, False),
        (used(10, inodes=89.9), None, False),
        (used(10, inodes=90), None, True),
        (used(10, inodes=85), True, True),
        (used(90, inodes=10), None, True),
        (Usage(95, 100, 5000, 0), False, True),
        (Usage(5, 100, 5000, 0), True, False),
        (Usage(0, 0, 0, 0), True, None),
    ],
)
def test_disk_is_nearly_full_from_90_percent_on_until_below_85(
    usage: Usage, before: bool | None, after: bool | None
) -> None:
    assert usage.nearly_full(before) is after


def test_what_goes_up_and_down_around_a_limit_changes_once() -> None:
    known: bool | None = None
    seen = []
    for percent in [89.9, 90.1] * 5 + [85.1, 84.9] * 5 + [89.9] * 5:
        known = used(percent).nearly_full(known)
        seen.append(known)
    changes = [two for one, two in itertools.pairwise(seen) if one is not two]
    assert (seen[0], changes) == (False, [True, False])


def recorded(sandbox: Sandbox, observed: Observed, later: float = 0) -> Sandbox:
    now = samples.NOW + timedelta(seconds=later)
    return status.record(sandbox, observed, lifecycle.decide(sandbox, observed, now), now)


def condition(sandbox: Sandbox) -> Condition:
    (found,) = [one for one in sandbox.status.conditions if one.type is ConditionType.DISK_NEARLY_FULL]
    return found


def test_status_says_what_was_measured_and_since_when() -> None:
    sandbox = samples.sandbox(volume_uid="disk")
    volume = dataclasses.replace(VOLUME, owner=sandbox.uid, uid="disk")
    since = None
    for later, known, reason in (
        (0, None, Reason.DISK_NOT_MEASURED),
        (1, False, Reason.READY),
        (2, True, Reason.DISK_FULL_SOON),
        (3, None, Reason.DISK_NOT_MEASURED),
    ):
        sandbox = recorded(sandbox, Observed(volume=volume, nearly_full=known), later)
        found = condition(sandbox)
        assert (found.status, found.reason) == (known, reason)
        assert found.transition_time == samples.NOW + timedelta(seconds=later) != since
        since = found.transition_time
        again = recorded(sandbox, Observed(volume=volume, nearly_full=known), later + 0.5)
        assert condition(again) == found


@pytest.mark.parametrize("lost", [False, True])
def test_nothing_is_known_of_a_disk_that_is_gone(lost: bool) -> None:
    sandbox = samples.sandbox(volume_uid="disk")
    volume = dataclasses.replace(VOLUME, owner=sandbox.uid, uid="disk", lost=True) if lost else None
    found = condition(recorded(sandbox, Observed(volume=volume, nearly_full=True)))
    assert (found.status, found.reason) == (None, Reason.DISK_NOT_MEASURED)
