"""The sandboxes of a watch as `top` shows them: filtered and sorted, without any I/O."""

import collections
import enum
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client.watch import Event, Kind

from sandboxctl import show

_REMEMBERED = 30.0
"""Seconds for which a sandbox is shown after its end."""
_BY_URGENCY = (
    "ERROR",
    "CREATING",
    "STARTING",
    "UPDATING",
    "STOPPING",
    "TERMINATING",
    "RUNNING",
    "STOPPED",
    "TERMINATED",
)
"""Phases in the order in which a person wants to see them."""

Key = tuple[str, str]


class Order(enum.Enum):
    """What the rows are sorted by; the name of the column."""

    PHASE = "PHASE"
    ID = "ID"
    REASON = "REASON"
    FOR = "FOR"
    AGE = "AGE"
    RESTARTS = "RST"

    def next(self) -> "Order":
        """Returns the order after this one."""
        orders = list(Order)
        return orders[(orders.index(self) + 1) % len(orders)]


def in_phase(status: pb.SandboxStatus, now: datetime) -> float:
    """Returns the seconds for which a sandbox has had its phase."""
    return _since(status.transition_time, now)


def age(status: pb.SandboxStatus, now: datetime) -> float:
    """Returns the seconds since a sandbox was created."""
    return _since(status.create_time, now)


_KEYS: dict[Order, Callable[[pb.SandboxStatus, datetime], Any]] = {
    Order.PHASE: lambda one, _now: _urgency(one),
    Order.ID: lambda _one, _now: 0,
    Order.REASON: lambda one, _now: show.reason(one.reason),
    Order.FOR: in_phase,
    Order.AGE: age,
    Order.RESTARTS: lambda one, _now: -one.restart_count,
}


class Fleet:
    """The newest status of each sandbox. After a RESYNC the former ones stay until the new snapshot is complete."""

    def __init__(self) -> None:
        self.synced = False
        self._statuses: dict[Key, pb.SandboxStatus] = {}
        self._snapshot: dict[Key, pb.SandboxStatus] | None = {}

    def take(self, event: Event) -> None:
        """Takes in an event of the watch."""
        if event.kind is Kind.RESYNC:
            self._snapshot = {}
        elif event.kind is Kind.SYNCED and self._snapshot is not None:
            self._statuses, self._snapshot = self._snapshot, None
            self.synced = True
        elif event.status is not None:
            into = self._statuses if self._snapshot is None else self._snapshot
            into[event.status.namespace, event.status.sandbox_id] = event.status

    def rows(self, words: str, order: Order, backwards: bool, now: datetime) -> list[pb.SandboxStatus]:
        """Returns the statuses that have all of the words in one of their columns, sorted; equal ones by their ids."""
        for key, one in list(self._statuses.items()):
            if one.phase == pb.PHASE_TERMINATED and in_phase(one, now) > _REMEMBERED:
                del self._statuses[key]
        wanted = words.lower().split()
        found = [one for one in self._statuses.values() if all(word in _text(one) for word in wanted)]
        found.sort(key=lambda one: (one.namespace, one.sandbox_id))
        found.sort(key=lambda one: _KEYS[order](one, now))
        return found[::-1] if backwards else found

    def counts(self) -> dict[str, int]:
        """Returns how many sandboxes are in each phase, the most urgent first."""
        counted = collections.Counter(show.phase(one) for one in self._statuses.values())
        return {name: counted[name] for name in sorted(counted, key=_rank)}

    def __len__(self) -> int:
        return len(self._statuses)

    @property
    def namespaces(self) -> int:
        """In how many namespaces the sandboxes are."""
        return len({namespace for namespace, _ in self._statuses})


def _since(time: Timestamp, now: datetime) -> float:
    return max(0.0, (now - time.ToDatetime(UTC)).total_seconds())


def _text(one: pb.SandboxStatus) -> str:
    parts = (one.namespace, one.sandbox_id, one.project, show.phase(one), show.reason(one.reason), one.message)
    return " ".join(parts).lower()


def _rank(name: str) -> int:
    return _BY_URGENCY.index(name) if name in _BY_URGENCY else len(_BY_URGENCY)


def _urgency(one: pb.SandboxStatus) -> int:
    return _rank(show.phase(one))
