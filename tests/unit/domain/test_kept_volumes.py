"""What a new sandbox adopts, and what a repeated Delete does with a volume that was kept."""

import dataclasses

import pytest
from sandbox_server.domain import errors, lifecycle, mutations
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import Addresses, Sandbox, VolumeStatus
from sandbox_server.domain.spec import Storage

from tests.support import samples

KEPT = Storage("5Gi", "fast", "ReadWriteOnce")
FIELDS = ("size", "storage_class", "access_mode")
pytestmark = pytest.mark.find(25)


def former(phase: Phase = Phase.TERMINATED, reason: Reason = Reason.VOLUME_KEPT, storage: Storage = KEPT) -> Sandbox:
    return samples.sandbox(
        desired=DesiredState.DELETED,
        keep_volume=True,
        volume_uid="disk",
        spec=samples.spec(storage=storage),
        status=samples.status(phase=phase, reason=reason),
        addresses=Addresses(public_url="http://127.0.0.1:27001", ports=(27001,)),
    )


def claimed(storage: Storage, *unset: str, kept: Storage = KEPT) -> Sandbox:
    return mutations.claimed(former(storage=kept), samples.sandbox(spec=samples.spec(storage=storage)), True, unset)


@pytest.mark.parametrize("size", ["5Gi", "5120Mi", "5368709120", "5.0Gi"])
def test_adopting_with_equal_storage_keeps_the_words_of_the_volume(size: str) -> None:
    made = claimed(dataclasses.replace(KEPT, size=size))
    assert (made.volume_uid, made.spec.storage) == ("disk", KEPT)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"size": "10Gi"}, "size is 5Gi"),
        ({"size": "1Gi"}, "size is 5Gi"),
        ({"storage_class": "slow"}, "storage_class is fast"),
        ({"access_mode": "ReadWriteMany"}, "access_mode is ReadWriteOnce"),
    ],
)
def test_adopting_with_other_storage_is_refused_with_what_the_volume_has(changed: dict[str, str], named: str) -> None:
    with pytest.raises(errors.FailedPrecondition, match=named) as caught:
        claimed(dataclasses.replace(KEPT, **changed))
    assert caught.value.reason == "VOLUME_DIFFERS"
    assert caught.value.facts == {"size": "5Gi", "storage_class": "fast", "access_mode": "ReadWriteOnce"}


def test_fields_that_the_caller_left_empty_are_those_of_the_volume() -> None:
    defaults = Storage("1Gi", "", "ReadWriteMany")
    assert claimed(defaults, *FIELDS).spec.storage == KEPT
    with pytest.raises(errors.FailedPrecondition, match="access_mode") as caught:
        claimed(defaults, "size", "storage_class")
    assert "size is" not in caught.value.message


@pytest.mark.parametrize(("asked", "size"), [("5Gi", "5Gi"), ("9Gi", "9Gi"), ("", "9Gi")])
def test_a_disk_that_has_not_grown_is_adopted_with_the_size_it_has_or_was_to_have(asked: str, size: str) -> None:
    growing = former(storage=dataclasses.replace(KEPT, size="9Gi"))
    status = dataclasses.replace(growing.status, volume=VolumeStatus("v", "5Gi", True))
    wanted = samples.sandbox(spec=samples.spec(storage=dataclasses.replace(KEPT, size=asked or "1Gi")))
    unset = () if asked else ("size",)
    made = mutations.claimed(dataclasses.replace(growing, status=status), wanted, True, unset)
    assert made.spec.storage == dataclasses.replace(KEPT, size=size)


def test_a_named_class_differs_from_the_default_of_the_cluster() -> None:
    with pytest.raises(errors.FailedPrecondition, match="storage_class is the default of the cluster"):
        claimed(KEPT, kept=dataclasses.replace(KEPT, storage_class=""))


def test_a_sandbox_that_adopts_nothing_has_the_storage_that_was_asked_for() -> None:
    wanted = samples.sandbox(spec=samples.spec(storage=Storage("1Gi", "", "ReadWriteOnce")))
    ended = former(reason=Reason.DELETED)
    assert mutations.claimed(None, wanted, False, FIELDS) == wanted
    assert mutations.claimed(ended, wanted, False, FIELDS) == wanted


def test_delete_of_a_kept_volume_ends_in_terminating_and_claims_no_port() -> None:
    after = lifecycle.on_mutation(mutations.delete(former(), False), samples.NOW)
    assert (after.status.phase, after.status.reason, after.keep_volume) == (Phase.TERMINATING, Reason.ACCEPTED, False)
    assert (after.addresses.ports, after.addresses.public_url) == ((), "http://127.0.0.1:27001")


@pytest.mark.parametrize("phase", [Phase.TERMINATING, Phase.ERROR])
def test_delete_of_a_volume_that_is_to_be_kept_keeps_the_ports_of_what_still_goes(phase: Phase) -> None:
    after = mutations.delete(former(phase, Reason.POD_TERMINATING), False)
    assert (after.keep_volume, after.addresses.ports) == (False, (27001,))


@pytest.mark.parametrize("keep_volume", [False, True])
def test_delete_of_what_has_no_volume_left_changes_nothing(keep_volume: bool) -> None:
    gone = former(reason=Reason.DELETED)
    assert mutations.delete(gone, keep_volume) == gone
    removed = dataclasses.replace(gone, keep_volume=False)
    assert mutations.delete(removed, keep_volume) == removed


def test_a_repeat_with_keep_volume_changes_nothing() -> None:
    for one in (former(), former(Phase.TERMINATING, Reason.POD_TERMINATING)):
        assert mutations.delete(one, True) == one
        going = dataclasses.replace(one, keep_volume=False)
        assert mutations.delete(going, True) == going
