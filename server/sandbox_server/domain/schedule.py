"""A schedule of snapshots as the service knows it. All values are frozen."""

import functools
from dataclasses import dataclass
from datetime import datetime

from sandbox_server.domain import selector, slots
from sandbox_server.domain.open_enum import OpenEnum
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.snapshot import Consistency


class MissedReason(OpenEnum):
    """Why a slot of a sandbox has no snapshot."""

    NOT_RUN = 1
    """The service did not run."""
    NO_DISK = 2
    NOT_STOPPED = 3
    UNSUPPORTED = 4
    TOO_MANY_SNAPSHOTS = 5
    ID_TAKEN = 6
    FAILED = 7
    """The snapshot was taken, and FAILED."""
    BUSY = 8
    """The snapshot of the slot before was still being taken."""


@dataclass(frozen=True, slots=True)
class Missed:
    """A slot of a sandbox that has no snapshot."""

    slot: datetime
    sandbox_id: str
    reason: MissedReason
    message: str


@dataclass(frozen=True, slots=True)
class Target:
    """The sandboxes that a schedule covers: one by its id, or those whose labels match. One of the two is empty."""

    sandbox_id: str = ""
    label_selector: str = ""


@functools.lru_cache(256)
def _selector(text: str) -> selector.Selector:
    return selector.parse("label_selector", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A schedule as the store has it.

    - `when`: its slots, as `slots.parsed` reads them; empty if there are none.
    - `keep`: the READY snapshots of each sandbox that stay.
    - `before_delete`: whether a snapshot is taken before the disk of a deleted sandbox goes.
    - `since`: the slots after it count. It is when the schedule was created, or got other slots or another target.
    - `last_slot`: the latest slot of which a snapshot was asked for.
    - `missed`: how many slots of sandboxes were missed; `last_missed` is the last of them.
    """

    id: str
    namespace: str
    tenant: str
    uid: str
    target: Target
    when: str
    keep: int
    before_delete: bool
    consistency: Consistency
    outlives_sandbox: bool
    create_time: datetime
    since: datetime
    last_slot: datetime | None = None
    missed: int = 0
    last_missed: Missed | None = None

    @property
    def key(self) -> Key:
        """The namespace and the id of the schedule, apart from those of sandboxes."""
        return Key(self.namespace, self.id)

    @property
    def slots(self) -> slots.Slots | None:
        """Its slots; None if there are none."""
        return slots.parsed(self.when) if self.when else None

    def matches(self, sandbox: Sandbox) -> bool:
        """Whether a sandbox is one of those that it names, deleted or not."""
        if (sandbox.namespace, sandbox.tenant) != (self.namespace, self.tenant):
            return False
        if self.target.sandbox_id:
            return sandbox.id == self.target.sandbox_id
        return _selector(self.target.label_selector).matches(sandbox.spec.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """A sandbox that a schedule covers, and how far its slots were worked.

    - `since`: the slots after it count.
    - `slot`: the latest that was worked, whether it has a snapshot or was missed. None before the first.
    - `snapshot_id`, `snapshot_uid`, `snapshot_slot`: of the snapshot that was taken last, until it is known what became of it; empty
      and None otherwise. Slots that come meanwhile are missed.
    """

    schedule_uid: str
    sandbox_uid: str
    namespace: str
    sandbox_id: str
    since: datetime
    slot: datetime | None = None
    snapshot_id: str = ""
    snapshot_uid: str = ""
    snapshot_slot: datetime | None = None
