"""A snapshot of a disk as the service knows it. All values are frozen."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sandbox_server.domain.open_enum import OpenEnum
from sandbox_server.domain.sandbox import Key


class State(OpenEnum):
    """The state of a snapshot. DELETED is the last of a snapshot. A FAILED one can only be deleted, unless it is LOST: it is READY
    again when what it consists of is."""

    CREATING = 1
    READY = 2
    FAILED = 3
    DELETING = 4
    DELETED = 5


class SnapshotReason(OpenEnum):
    """The cause of the state."""

    ACCEPTED = 1
    """Nothing was asked of the storage yet."""
    COPYING = 2
    """The storage is taking it."""
    READY = 3
    DELETING = 4
    """The storage is removing it, or a sandbox that is made from it still needs it."""
    DELETED = 5
    DISK_GONE = 6
    """The disk was removed or replaced before the snapshot was taken."""
    NOT_STOPPED = 7
    """The sandbox was started before the snapshot of its stopped disk was taken."""
    UNSUPPORTED = 8
    """The cluster has no snapshots, or no class of snapshots for this disk."""
    STORAGE_FAILED = 9
    """The storage says why in the message."""
    NO_SPACE = 10
    QUOTA_EXCEEDED = 11
    FORBIDDEN = 12
    LOST = 13
    """It was READY, and what it consists of is not to be seen: somebody else removed it, or it is out of reach."""
    BUSY = 14
    """The storage or the cluster cannot do it now, and it is tried again."""


class Consistency(OpenEnum):
    """What a snapshot promises of the files in it."""

    CRASH = 1
    """The files as after a power cut: what a program was writing can be half there."""
    STOPPED = 2
    """The files of a sandbox that did not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A snapshot as the store has it.

    - `uid`: unique for ever. The engines name what they make by it.
    - `sandbox_id`, `sandbox_uid`, `volume_uid`: the sandbox and the disk that it is of. `project` is that of the sandbox.
    - `size`: that of the disk, or what the storage says if that is more, a Kubernetes quantity. A disk made from it must have at
      least that.
    - `home_folder`: the folder of the disk that is its home, as the sandbox has it.
    - `outlives_sandbox`: whether it stays when the sandbox is deleted.
    - `start_generation`: that of the sandbox when it was asked for. Another one says that the sandbox was started since.
    - `storage_class`, `access_mode`: those that the sandbox asked for. A disk that is made from it has the same by default. Former
      releases did not store them: empty.
    - `asked_to_go`: whether it is to be deleted.
    - `schedule_id`, `schedule_uid`: the schedule that it was taken by; empty if there is none.
    - `before_delete`: whether the deletion of its sandbox waits for it.
    - `used_bytes`: what it takes, as far as the storage says so; 0 if it is unknown.
    """

    id: str
    namespace: str
    tenant: str
    uid: str
    sandbox_id: str
    sandbox_uid: str
    volume_uid: str
    project: str
    size: str
    home_folder: str
    consistency: Consistency
    outlives_sandbox: bool
    labels: Mapping[str, str]
    create_time: datetime
    state: State
    reason: SnapshotReason
    message: str
    transition_time: datetime
    ready_time: datetime | None = None
    used_bytes: int = 0
    asked_to_go: bool = False
    start_generation: int = 0
    storage_class: str = ""
    access_mode: str = ""
    schedule_id: str = ""
    schedule_uid: str = ""
    before_delete: bool = False

    @property
    def key(self) -> Key:
        """The namespace and the id of the snapshot, apart from those of sandboxes."""
        return Key(self.namespace, self.id)


@dataclass(frozen=True, slots=True)
class SnapshotEvent:
    """An entry of the log of snapshots: a snapshot as it is from then on. `sequence` orders the events of all snapshots, without
    gaps, apart from those of sandboxes."""

    sequence: int
    snapshot: Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What an engine shows of a snapshot now. `state` is CREATING, READY, FAILED or DELETED.

    `size`: what a disk that is made from it must have, a Kubernetes quantity; empty if the storage does not say.
    """

    state: State
    reason: SnapshotReason
    message: str = ""
    used_bytes: int = 0
    size: str = ""
