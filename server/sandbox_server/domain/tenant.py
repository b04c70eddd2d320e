"""Tenants, and the sandboxes that belong to them."""

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from sandbox_server.domain import errors
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.schedule import Schedule
from sandbox_server.domain.snapshot import Snapshot

ANY = ""
"""Stands for the sandboxes of every tenant where a tenant's name is expected. No tenant has this name."""


class Reach(NamedTuple):
    """The sandboxes of a tenant, or of `ANY`, that are in `namespaces`, or in any namespace if that is None."""

    tenant: str
    namespaces: frozenset[str] | None

    @property
    def empty(self) -> bool:
        """Whether it has no namespace, and so no sandbox."""
        return self.namespaces is not None and not self.namespaces


@dataclass(frozen=True, slots=True)
class Tenant:
    """The owner of one or more namespaces. See `principal.Principal` for what it may see and change."""

    name: str
    namespaces: tuple[str, ...]

    @property
    def tenant(self) -> str:
        """The tenant whose sandboxes alone it sees: itself."""
        return self.name

    @property
    def writes(self) -> bool:
        """Whether it may change what it sees: always."""
        return True

    @property
    def default_namespace(self) -> str:
        """The namespace of requests without one: its first."""
        return self.namespaces[0]

    def permit(self, method: str) -> None:
        """Permits every call."""

    def sees(self, owned: Sandbox | Snapshot | Schedule) -> bool:
        """Whether the sandbox, the snapshot or the schedule belongs to it and is in one of its namespaces."""
        return owned.tenant == self.name and owned.namespace in self.namespaces

    def reach(self, namespace: str = "", tenant: str = ANY) -> Reach:
        """Returns what it sees in a namespace, or in all of its own. Nothing belongs to it as another tenant."""
        selected = (one for one in self.namespaces if namespace in ("", one) and tenant in (ANY, self.name))
        return Reach(self.name, frozenset(selected))

    def key(self, namespace: str, sandbox_id: str) -> Key:
        """Returns the key of a sandbox in one of its namespaces.

        Raises `errors.NotFound` for another tenant's namespace, as for an unknown sandbox.
        """
        (key,) = self.keys(namespace, (sandbox_id,))
        return key

    def keys(self, namespace: str, sandbox_ids: Collection[str]) -> frozenset[Key]:
        """Returns the keys of sandboxes in one of its namespaces. Raises as `key`, unless there are no ids."""
        if sandbox_ids and namespace and namespace not in self.namespaces:
            raise not_found(*sandbox_ids)
        return frozenset(Key(namespace or self.default_namespace, sandbox_id) for sandbox_id in sandbox_ids)


NAMED = 3
"""Missing ids in the message of an error."""
LISTED = 2048
"""Characters of missing ids in the metadata of an error. Clients accept 8 KiB and fail the call over more."""


def not_found(*sandbox_ids: str) -> errors.NotFound:
    """Returns the same error for sandboxes that never existed and for those of another tenant.

    Its metadata has the ids as `sandbox_ids`, sorted and joined by commas, and as `sandboxes_left` the number of ids
    that do not fit.
    """
    missing = sorted(set(sandbox_ids))
    lengths = itertools.accumulate(len(one) + 1 for one in missing)
    fitting = [one for one, length in zip(missing, lengths, strict=True) if length <= LISTED]
    facts = {"sandbox_id": missing[0], "sandbox_ids": ",".join(fitting)}
    if len(fitting) < len(missing):
        facts["sandboxes_left"] = str(len(missing) - len(fitting))
    named = ", ".join(repr(one) for one in missing[:NAMED])
    if len(missing) > NAMED:
        named += f" and {len(missing) - NAMED} more"
    message = f"there is no sandbox {named}: check its id and namespace"
    return errors.NotFound("SANDBOX_NOT_FOUND", message, **facts)
