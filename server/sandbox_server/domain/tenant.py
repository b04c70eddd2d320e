"""Tenants, and the sandboxes that belong to them."""

import itertools
from collections.abc import Collection
from dataclasses import dataclass

from sandbox_server.domain import errors
from sandbox_server.domain.sandbox import Key


@dataclass(frozen=True, slots=True)
class Tenant:
    """The owner of one or more namespaces. The first is the default for requests without a namespace."""

    name: str
    namespaces: tuple[str, ...]

    def key(self, namespace: str, sandbox_id: str) -> Key:
        """Returns the key of a sandbox in one of its namespaces.

        Raises `errors.NotFound` for another tenant's namespace, as for an unknown sandbox.
        """
        (key,) = self.keys(namespace, (sandbox_id,))
        return key

    def among(self, namespace: str) -> frozenset[str]:
        """Returns the tenant's namespaces that a filter by `namespace` selects: all of them if it is empty."""
        return frozenset(one for one in self.namespaces if namespace in ("", one))

    def keys(self, namespace: str, sandbox_ids: Collection[str]) -> frozenset[Key]:
        """Returns the keys of sandboxes in one of its namespaces. Raises as `key`, unless there are no ids."""
        if sandbox_ids and namespace and namespace not in self.namespaces:
            raise not_found(*sandbox_ids)
        return frozenset(Key(namespace or self.namespaces[0], sandbox_id) for sandbox_id in sandbox_ids)


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
