"""What the reconciler knows of how full a disk is, from one measurement to the next, and from one holder to the next."""

import dataclasses

from sandbox_server.domain.phase import ConditionType, Reason
from sandbox_server.domain.sandbox import Condition, Sandbox
from sandbox_server.domain.usage import Usage
from sandbox_server.reconciler.disks import FAILURES_MOST, Disk

from tests.support import samples

FULL, BETWEEN, ROOMY = (Usage(used, 100, 0, 0) for used in (95, 87, 50))


def sandbox(nearly_full: bool | None = None, volume: str = "disk") -> Sandbox:
    told = Condition(ConditionType.DISK_NEARLY_FULL, nearly_full, Reason.READY, samples.NOW)
    return samples.sandbox(volume_uid=volume, status=samples.status(conditions=(told,)))


def test_what_is_measured_is_told_once() -> None:
    one = sandbox()
    disk = Disk.of(one)
    told = [(disk.measured(one, usage), disk.nearly_full(one)) for usage in (ROOMY, ROOMY, FULL, BETWEEN, ROOMY)]
    assert told == [(True, False), (False, False), (True, True), (False, True), (True, False)]


def test_next_holder_goes_on_with_what_the_status_says() -> None:
    for before in (True, False, None):
        one = sandbox(before)
        assert Disk.of(one).nearly_full(one) is before
    one = sandbox(True)
    disk = Disk.of(one)
    # Between the limits nothing changes, as with the holder before.
    assert (disk.measured(one, BETWEEN), disk.nearly_full(one)) == (False, True)
    one = sandbox(False)
    disk = Disk.of(one)
    assert (disk.measured(one, BETWEEN), disk.nearly_full(one)) == (False, False)


def test_nothing_is_known_after_three_failures_in_a_row() -> None:
    assert FAILURES_MOST == 3
    one = sandbox(True)
    disk = Disk.of(one)
    told = [disk.measured(one, usage) for usage in (None, None, FULL, None, None)]
    assert (told, disk.nearly_full(one)) == ([False] * 5, True)
    assert (disk.measured(one, None), disk.nearly_full(one)) == (True, None)
    assert (disk.measured(one, None), disk.nearly_full(one)) == (False, None)
    assert (disk.measured(one, BETWEEN), disk.nearly_full(one)) == (True, False)


def test_another_disk_has_nothing_of_the_one_before() -> None:
    before = sandbox(True, "first")
    disk = Disk.of(before)
    after = dataclasses.replace(before, volume_uid="second")
    assert disk.nearly_full(after) is None
    assert (disk.measured(after, BETWEEN), disk.nearly_full(after)) == (True, False)
    assert disk.nearly_full(before) is None


def test_a_status_of_a_release_without_the_condition_says_nothing() -> None:
    one = samples.sandbox(volume_uid="disk")
    assert Disk.of(one).nearly_full(one) is None
