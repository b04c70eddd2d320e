"""Which fields of the status that callers see differ between two events of a sandbox."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from sandbox_server.domain import remedy
from sandbox_server.domain.sandbox import Sandbox

_FIELDS: dict[str, Callable[[Sandbox], Any]] = {
    "sandbox_id": attrgetter("id"),
    "namespace": attrgetter("namespace"),
    "uid": attrgetter("uid"),
    "project": attrgetter("spec.project"),
    "phase": attrgetter("status.phase"),
    "reason": attrgetter("status.reason"),
    "message": attrgetter("status.message"),
    "conditions": attrgetter("status.conditions"),
    "generation": attrgetter("generation"),
    "observed_generation": attrgetter("status.observed_generation"),
    "transition_time": attrgetter("status.transition_time"),
    "restart_count": attrgetter("status.restart_count"),
    "last_exit": attrgetter("status.last_exit"),
    "stateful_set_name": attrgetter("objects.stateful_set"),
    "service_name": attrgetter("objects.service"),
    "dns_name": attrgetter("addresses.dns_name"),
    "public_url": attrgetter("addresses.public_url"),
    "ttyd_url": attrgetter("addresses.ttyd_url"),
    "volume": attrgetter("status.volume"),
    "remedy": lambda sandbox: remedy.of(sandbox.status.reason),
    "last_disruption": attrgetter("status.last_disruption"),
    "tenant": attrgetter("tenant"),
    "labels": attrgetter("spec.labels"),
    "desired_state": attrgetter("desired"),
    "create_time": attrgetter("create_time"),
    "resources": attrgetter("spec.resources"),
    "storage_size": attrgetter("spec.storage.size"),
}
"""What each field of `SandboxStatus` follows from, in the order of the contract: all but `sequence`, which differs in every
event, and `stale` and `usage`, which no event has."""


def between(before: Sandbox, after: Sandbox) -> tuple[str, ...]:
    """Returns the names of the fields of the status that differ."""
    return tuple(name for name, value in _FIELDS.items() if value(before) != value(after))
