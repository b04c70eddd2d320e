"""What a sandbox has whose disk is made from a snapshot."""

import dataclasses
from datetime import timedelta

import pytest
from sandbox_server.domain import lifecycle, origins, snapshot_mutations
from sandbox_server.domain.observed import Observed, Volume, Workload
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Key, Origin
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


def test_a_restore_that_takes_long_says_since_when() -> None:
    made = samples.sandbox(origin=Origin("u", Key("default", "other"), "disk"))
    waits = Volume(owner=made.uid, uid="volume", name="v", size="5Gi", bound=False)
    seen = Observed(workload=Workload(owner=made.uid, generation=1, replicas=1, revision=1), volume=waits)
    words = "the disk is being made from a snapshot of other"
    late = samples.NOW + timedelta(seconds=lifecycle.PACE.start_deadline)
    for now, expected in (
        (samples.NOW, words),
        (late, f"{words}; it was asked for at {made.attempt_at:%Y-%m-%d %H:%M:%S} UTC"),
    ):
        decision = lifecycle.decide(made, seen, now)
        assert (decision.reason, decision.message) == (Reason.VOLUME_RESTORING, expected)
