"""The live sandboxes: those that are not TERMINATED, by key and by tenant."""

import bisect
from collections.abc import Iterable, Iterator

from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.tenant import ANY
from sandbox_server.feed.topic import Encoded, Filter


class Catalogue:
    """The last event of each live sandbox. What one tenant reads costs nothing for the sandboxes of others."""

    def __init__(self, events: Iterable[Encoded] = ()) -> None:
        self.load(events)

    def load(self, events: Iterable[Encoded]) -> None:
        """Begins anew with the last events of all live sandboxes."""
        self._events = {one.event.sandbox.key: one for one in events}
        self._keys: dict[str, list[Key]] = {}
        """Those of each tenant, and those of `ANY`, in order."""
        for key, one in self._events.items():
            for tenant in (one.event.sandbox.tenant, ANY):
                self._keys.setdefault(tenant, []).append(key)
        for keys in self._keys.values():
            keys.sort()

    def get(self, key: Key) -> Encoded | None:
        """Returns the last event of a live sandbox; None if no live sandbox has that key."""
        return self._events.get(key)

    def take(self, encoded: Encoded) -> None:
        """Takes the next event of the log."""
        sandbox = encoded.event.sandbox
        before = self._events.get(sandbox.key)
        if encoded.event.terminated:
            if before is not None:
                self._remove(before)
            return
        if before is not None and before.event.sandbox.tenant != sandbox.tenant:
            self._remove(before)
            before = None
        self._events[sandbox.key] = encoded
        if before is None:
            for tenant in (sandbox.tenant, ANY):
                bisect.insort(self._keys.setdefault(tenant, []), sandbox.key)

    def _remove(self, encoded: Encoded) -> None:
        key = encoded.event.sandbox.key
        for tenant in (encoded.event.sandbox.tenant, ANY):
            keys = self._keys[tenant]
            del keys[bisect.bisect_left(keys, key)]
            if not keys:
                del self._keys[tenant]
        del self._events[key]

    def sandboxes(self) -> list[Sandbox]:
        """Returns the live sandboxes of all tenants in the order of their keys."""
        return [self._events[key].event.sandbox for key in self._keys.get(ANY, [])]

    def namespaces(self) -> set[str]:
        """Returns the namespaces in which there are live sandboxes, without a look at each of these."""
        keys = self._keys.get(ANY, [])
        found: set[str] = set()
        place = 0
        while place < len(keys):
            namespace = keys[place].namespace
            found.add(namespace)
            place = _end(keys, namespace)
        return found

    def matching(self, selection: Filter, after: Key | None = None) -> Iterator[Encoded]:
        """The last events of the sandboxes that a filter matches, in the order of their keys, after `after`.

        They are taken at once, without an `await` between them: the catalogue changes with every event.
        """
        keys = self._keys.get(selection.only_tenant, [])
        if selection.namespace:
            # No id is empty, so that this is the place before the first key of the namespace.
            first = bisect.bisect_left(keys, Key(selection.namespace, ""))
            keys = keys[first : _end(keys, selection.namespace)]
        if after is not None:
            keys = keys[bisect.bisect_right(keys, after) :]
        events = (self._events[key] for key in keys)
        return (one for one in events if selection.matches(one.event.sandbox))


def _end(keys: list[Key], namespace: str) -> int:
    """Returns the place after the last key of a namespace."""
    return bisect.bisect_left(keys, Key(namespace + "\0", ""))
