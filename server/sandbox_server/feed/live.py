"""The sandboxes that are not TERMINATED, by key and by tenant."""

import bisect
import itertools
from collections.abc import Iterable, Iterator

from sandbox_server.domain.sandbox import Key
from sandbox_server.feed.topic import Change, Filter


class Live:
    """The newest entry of each live sandbox. What one tenant reads costs nothing for the sandboxes of others."""

    def __init__(self, changes: Iterable[Change] = ()) -> None:
        self._changes = {one.sandbox.key: one for one in changes}
        self._keys: dict[str, list[Key]] = {}
        """Those of each tenant, in order."""
        for key, change in self._changes.items():
            self._keys.setdefault(change.sandbox.tenant, []).append(key)
        for keys in self._keys.values():
            keys.sort()

    def get(self, key: Key) -> Change | None:
        """Returns the entry of that key; None without a live sandbox."""
        return self._changes.get(key)

    def take(self, change: Change) -> None:
        """Takes the next entry of the log."""
        sandbox = change.sandbox
        before = self._changes.get(sandbox.key)
        if change.terminated:
            if before is not None:
                self._remove(before)
            return
        if before is not None and before.sandbox.tenant != sandbox.tenant:
            self._remove(before)
            before = None
        self._changes[sandbox.key] = change
        if before is None:
            bisect.insort(self._keys.setdefault(sandbox.tenant, []), sandbox.key)

    def _remove(self, change: Change) -> None:
        key, tenant = change.sandbox.key, change.sandbox.tenant
        keys = self._keys[tenant]
        del keys[bisect.bisect_left(keys, key)]
        if not keys:
            del self._keys[tenant]
        del self._changes[key]

    def all(self, after: Key | None = None) -> list[Change]:
        """Returns the entries of all tenants in the order of their keys, after `after`."""
        keys = sorted(itertools.chain.from_iterable(self._keys.values()))
        return [self._changes[key] for key in _following(keys, after)]

    def matching(self, wanted: Filter, after: Key | None = None) -> Iterator[Change]:
        """The entries that a filter matches, in the order of their keys, after `after`."""
        keys = self._keys.get(wanted.tenant.name, [])
        if wanted.namespace:
            # No id is empty, so that these are the places before the first key of the namespace and after its last.
            first = bisect.bisect_left(keys, Key(wanted.namespace, ""))
            keys = keys[first : bisect.bisect_left(keys, Key(wanted.namespace + "\0", ""))]
        changes = (self._changes[key] for key in _following(keys, after))
        return (one for one in changes if wanted.matches(one.sandbox))


def _following(keys: list[Key], after: Key | None) -> list[Key]:
    return keys[bisect.bisect_right(keys, after) :] if after is not None else keys
