"""Who calls, and what is theirs."""

import itertools
from collections.abc import Collection
from dataclasses import dataclass

from sandbox_server.domain import errors
from sandbox_server.domain.sandbox import Key


@dataclass(frozen=True, slots=True)
class Tenant:
    """The owner of one or more namespaces; the first is the one meant when a request names none."""

    name: str
    namespaces: tuple[str, ...]

    def key(self, namespace: str, sandbox_id: str) -> Key:
        """The key of one of its sandboxes. A foreign namespace is answered like an unknown sandbox."""
        return next(iter(self.keys(namespace, (sandbox_id,))))

    def keys(self, namespace: str, sandbox_ids: Collection[str]) -> frozenset[Key]:
        """The keys of some of its sandboxes. A foreign namespace is answered like one without any of them."""
        if sandbox_ids and namespace and namespace not in self.namespaces:
            raise not_found(*sandbox_ids)
        return frozenset(Key(namespace or self.namespaces[0], one) for one in sandbox_ids)


NAMED = 3
"""Missing ids in the message of an error, which is for people."""
LISTED = 2048
"""Characters of missing ids in an error. Clients take 8 KiB of metadata, and fail the call over more."""


def not_found(*sandbox_ids: str) -> errors.NotFound:
    """The one answer for sandboxes that are unknown, never were, or are foreign.

    `sandbox_ids` has them in order, joined by commas, and `sandboxes_left` counts those that do not fit.
    """
    missing = sorted(set(sandbox_ids))
    ends = itertools.accumulate(len(one) + 1 for one in missing)
    fitting = [one for one, end in zip(missing, ends, strict=True) if end <= LISTED]
    facts = {"sandbox_id": missing[0], "sandbox_ids": ",".join(fitting)}
    if len(fitting) < len(missing):
        facts["sandboxes_left"] = str(len(missing) - len(fitting))
    named = ", ".join(repr(one) for one in missing[:NAMED])
    if len(missing) > NAMED:
        named += f" and {len(missing) - NAMED} more"
    said = f"there is no sandbox {named}: check its id and namespace"
    return errors.NotFound("SANDBOX_NOT_FOUND", said, **facts)
