"""Sandboxes whose disk is made from a snapshot, or from the disk of another sandbox."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from sandbox_server.domain import check, errors, mutations, snapshot_mutations
from sandbox_server.domain.sandbox import Key, Origin, Sandbox
from sandbox_server.domain.snapshot import Snapshot, State
from sandbox_server.domain.spec import SandboxSpec


def restored(wanted: Sandbox, snapshot: Snapshot, unset: Collection[str]) -> Sandbox:
    """Returns the new sandbox `wanted` with a disk that is made from a snapshot.

    `unset` names the fields of the storage that the caller left to the service: they are those of the snapshot. Raises
    `errors.FailedPrecondition` if the snapshot is not READY, and `errors.Invalid` if the disk is smaller than that of the
    snapshot.
    """
    if snapshot.state is not State.READY:
        state = f"SNAPSHOT_STATE_{snapshot.state.name}"
        raise errors.FailedPrecondition(
            "SNAPSHOT_NOT_READY",
            f"the snapshot {snapshot.id!r} is in {state}: wait for SNAPSHOT_STATE_READY, or choose another",
            state=state,
        )
    of_source = {"storage_class": snapshot.storage_class, "access_mode": snapshot.access_mode}
    left = {name: value for name, value in of_source.items() if value and name in unset}
    storage = replace(wanted.spec.storage, **left)
    if "size" in unset:
        storage = replace(storage, size=snapshot.size)
    elif check.amount(storage.size) < check.amount(snapshot.size):
        description = f"must be at least {snapshot.size}, which the disk of the snapshot has, or empty for that"
        raise errors.Invalid((errors.Violation("spec.storage.size", description),))
    return replace(
        wanted,
        spec=replace(wanted.spec, storage=storage),
        home_folder=snapshot.home_folder,
        origin=Origin(snapshot.uid, Key(snapshot.namespace, snapshot.sandbox_id), snapshot.volume_uid),
    )


def of_another_driver(obstacle: str) -> errors.FailedPrecondition:
    """Returns the error of a disk whose storage class makes it without the files that it is to have. `obstacle` says why."""
    return errors.FailedPrecondition(
        "CLASS_OF_ANOTHER_DRIVER", f"the disk cannot be made: {obstacle}. Choose a storage class of that driver"
    )


@dataclass(frozen=True, slots=True)
class Clone:
    """What a clone has that its source has not. An empty project is that of the source, and so are empty labels.

    `set`, `unset` and `replaces` change its environment as `mutations.environment` does.
    """

    source: Key
    project: str
    labels: Mapping[str, str]
    set: Mapping[str, str]
    unset: Sequence[str]
    replaces: bool

    def spec(self, source: Sandbox) -> SandboxSpec:
        """Returns the spec of the clone. Raises `errors.Invalid`, and `errors.FailedPrecondition` if there is no disk to copy."""
        snapshot_mutations.copied(source)
        spec = source.spec
        return replace(spec, project=self.project or spec.project, labels=self.labels or spec.labels)

    def env(self, present: Mapping[str, str]) -> dict[str, str]:
        """Returns the environment of the clone, `present` being that of its source. Raises `errors.Invalid`."""
        return mutations.environment(present, self.set, self.unset, self.replaces)

    def made(self, wanted: Sandbox, source: Sandbox) -> Sandbox:
        """Returns the new sandbox `wanted` with a disk that is made from that of its source."""
        return replace(wanted, home_folder=source.home_folder, origin=Origin("", source.key, source.volume_uid))
