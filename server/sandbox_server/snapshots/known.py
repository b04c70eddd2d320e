"""The snapshots that are not DELETED, as a replica last heard of them, by their keys and by what they have to do with."""

import collections
from collections.abc import Iterator

from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.snapshot import Snapshot, State


class Known:
    """Snapshots by key, by their uid and by that of their sandbox: events of sandboxes are many."""

    def __init__(self) -> None:
        self._by_key: dict[Key, Snapshot] = {}
        self._by_uid: collections.defaultdict[str, set[Key]] = collections.defaultdict(set)

    def __contains__(self, key: Key) -> bool:
        return key in self._by_key

    def __iter__(self) -> Iterator[Key]:
        return iter(self._by_key)

    def put(self, snapshot: Snapshot) -> None:
        """Takes the place of what was known of the snapshot; of a DELETED one nothing is."""
        self.forget(snapshot.key)
        if snapshot.state is State.DELETED:
            return
        self._by_key[snapshot.key] = snapshot
        for uid in (snapshot.uid, snapshot.sandbox_uid):
            self._by_uid[uid].add(snapshot.key)

    def forget(self, key: Key) -> None:
        """Forgets a snapshot."""
        former = self._by_key.pop(key, None)
        if former is None:
            return
        for uid in (former.uid, former.sandbox_uid):
            self._by_uid[uid].discard(key)
            if not self._by_uid[uid]:
                del self._by_uid[uid]

    def of(self, uid: str) -> list[Snapshot]:
        """Returns the snapshot that has a uid, or those of the sandbox that has it."""
        return [self._by_key[key] for key in self._by_uid.get(uid, ())]
