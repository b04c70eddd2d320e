"""Whose an object is that has a name of a sandbox."""

import dataclasses

import pytest
from sandbox_server.domain import ownership
from sandbox_server.domain.observed import Pod, Volume, Workload
from sandbox_server.domain.phase import Reason

from tests.support import samples

SANDBOX = samples.sandbox(uid="mine")
ADOPTED = dataclasses.replace(SANDBOX, volume_uid="the-disk")


def volume(owner: str, uid: str) -> Volume:
    return Volume(owner=owner, uid=uid, name="claim", size="1Gi", bound=True)


def workload(owner: str) -> Workload:
    return Workload(owner=owner, generation=1, replicas=1, revision=1)


def pod(owner: str) -> Pod:
    return Pod(owner=owner, generation=1, ready=False, reason=Reason.NOT_READY)


@pytest.mark.parametrize("sandbox", [SANDBOX, ADOPTED])
@pytest.mark.parametrize("found", [workload, pod])
def test_workload_and_pod_are_owned_by_the_sandbox_that_they_were_made_for(sandbox, found) -> None:
    assert ownership.owned(sandbox, found("mine"))
    assert not ownership.owned(sandbox, found("another"))
    assert not ownership.owned(sandbox, found(""))


@pytest.mark.parametrize(
    ("sandbox", "found", "owned", "disk"),
    [
        (SANDBOX, volume("mine", "fresh"), True, True),
        (SANDBOX, volume("another", "fresh"), False, False),
        (ADOPTED, volume("former", "the-disk"), True, True),
        # Made for the sandbox in place of a disk that was lost: removed with it, and not reported as its disk.
        (ADOPTED, volume("mine", "fresh"), True, False),
        (ADOPTED, volume("another", "fresh"), False, False),
    ],
)
def test_volume_is_owned_by_whom_it_was_made_for_or_who_adopted_it(sandbox, found, owned, disk) -> None:
    assert ownership.owned(sandbox, found) is owned
    assert ownership.is_disk(sandbox, found) is disk
