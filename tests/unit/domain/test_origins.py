"""What a sandbox has whose disk is made from a snapshot."""

import dataclasses

import pytest
from sandbox_server.domain import origins, snapshot_mutations
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.snapshot import Consistency, State
from sandbox_server.domain.spec import Storage

from tests.support import samples

GIVEN = Storage(size="9Gi", storage_class="standard", access_mode="ReadWriteOnce")
SOURCE = samples.sandbox(volume_uid="disk", spec=samples.spec(storage=Storage("7Gi", "fast", "ReadWriteMany")))
WANTED = snapshot_mutations.Wanted("nap", Key("default", "demo-1"), Consistency.CRASH, False, {})
TAKEN = dataclasses.replace(snapshot_mutations.new(WANTED, "nap", "u", SOURCE, samples.NOW), state=State.READY)


@pytest.mark.parametrize(
    ("unset", "expected"),
    [
        ((), GIVEN),
        (("size",), Storage("7Gi", "standard", "ReadWriteOnce")),
        (("storage_class",), Storage("9Gi", "fast", "ReadWriteOnce")),
        (("access_mode",), Storage("9Gi", "standard", "ReadWriteMany")),
        (("size", "storage_class", "access_mode"), SOURCE.spec.storage),
    ],
)
def test_what_a_caller_leaves_empty_of_the_storage_is_that_of_the_snapshot(
    unset: tuple[str, ...], expected: Storage
) -> None:
    wanted = samples.sandbox("other", spec=samples.spec(storage=GIVEN))
    assert origins.restored(wanted, TAKEN, unset).spec.storage == expected


def test_what_a_former_release_did_not_store_of_a_snapshot_is_that_of_the_service() -> None:
    wanted = samples.sandbox("other", spec=samples.spec(storage=GIVEN))
    former = dataclasses.replace(TAKEN, storage_class="", access_mode="")
    assert origins.restored(wanted, former, ("storage_class", "access_mode")).spec.storage == GIVEN
