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
    RESTORING = 20
    """Of a verification: the disk of its scratch is being made from the snapshot."""
    COUNTING = 21
    """The files of the scratch are being counted and hashed."""
    CLEARING = 22
    """The files were counted, or cannot be, and the scratch is being removed."""
    VERIFIED = 23
    """The files were restored and read, and are those that were counted first."""
    MISMATCH = 24
    """The files were restored and read, and are not those that were counted first."""
    UNREADABLE = 25
    """A file that was restored cannot be read."""
    VERIFICATION_DEADLINE = 26
    """The files were not counted in time."""
    POD_FAILED = 27
    """The pod that counts the files cannot run, or has ended without a word."""


class Consistency(OpenEnum):
    """What a snapshot promises of the files in it."""

    CRASH = 1
    """The files as after a power cut: what a program was writing can be half there."""
    STOPPED = 2
    """The files of a sandbox that did not run."""


class VerificationState(OpenEnum):
    """Where a verification stands. RUNNING until nothing is left of its scratch."""

    RUNNING = 1
    PASSED = 2
    FAILED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What is in the home of a disk: how many entries of each type, the sum of the sizes of the files in bytes, and the
    SHA-256 of the listing of all entries, in hexadecimal digits.

    `others` are FIFOs, sockets and devices. A file with two names is two files. What the listing is stands in
    `docs/verification.md`.
    """

    files: int
    folders: int
    links: int
    others: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The last verification of a snapshot: its files are restored into a scratch disk, counted, hashed and compared.

    - `start_time`: None while it waits for its turn.
    - `end_time`: when its result was known. Its scratch goes after that.
    - `result`: PASSED or FAILED once that is known, also while the state is RUNNING yet; `result_reason` and
      `result_message` say why.
    - `contents`: what was counted; None if that failed.
    """

    state: VerificationState
    reason: SnapshotReason
    message: str
    start_time: datetime | None = None
    end_time: datetime | None = None
    result: VerificationState | None = None
    result_reason: SnapshotReason | None = None
    result_message: str = ""
    contents: Contents | None = None

    @property
    def runs(self) -> bool:
        """Whether there is anything left to do for it."""
        return self.state is VerificationState.RUNNING


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
    - `verification`: the last one; None if it was never verified.
    - `contents`: what the first verification has counted that could; every later one must count the same.
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
    verification: Verification | None = None
    contents: Contents | None = None

    @property
    def verifies(self) -> bool:
        """Whether a verification runs, which has to end before the snapshot goes."""
        return self.verification is not None and self.verification.runs

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """What an engine shows of the scratch of a verification now.

    - `is_there`: whether there is anything of it that has to be removed.
    - `state`: None if it has to be begun, also one of which only a part is there.
    - `reason`, `message`: RESTORING or COUNTING, or why it has failed.
    - `contents`: what was counted, of one that has PASSED.
    """

    is_there: bool
    state: VerificationState | None = None
    reason: SnapshotReason = SnapshotReason.ACCEPTED
    message: str = ""
    contents: Contents | None = None
