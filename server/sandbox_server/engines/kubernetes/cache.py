"""The objects of one kind as the API server last showed them.

Versions are compared as numbers, as the API server itself orders them. They go backwards where etcd is restored from a
backup, or where a cluster is made anew behind the same address: then everything that is remembered is in doubt.
"""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from sandbox_server.engines.kubernetes.objects import Known, Object

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Entry(NamedTuple, Generic[T]):
    """What is remembered of an object. `sandbox` is the id of the sandbox that it belongs to."""

    version: int
    uid: str
    sandbox: str
    value: T


class Cache(Generic[T_co]):
    """What `value` makes of each object, by the name that `identify` gives it beside the id of its sandbox.

    `changed` is called with the id of a sandbox when a list or a watch shows something new of it; `rewound` when versions
    went backwards.
    """

    def __init__(
        self,
        identify: Callable[[Object], tuple[str, str]],
        value: Callable[[Object], T_co],
        changed: Callable[[str], None],
        rewound: Callable[[], None],
    ) -> None:
        self._identify = identify
        self._value = value
        self._changed = changed
        self._rewound = rewound
        self._entries: dict[str, Entry[T_co]] = {}
        self._version = 0
        self._emptied = False

    def get(self, name: str) -> T_co | None:
        """Returns what is remembered by `name`."""
        entry = self._entries.get(name)
        return None if entry is None else entry.value

    def uid(self, name: str) -> str:
        """Returns the uid of the object that is remembered by `name`; empty if there is none."""
        entry = self._entries.get(name)
        return "" if entry is None else entry.uid

    def known(self, name: str) -> Known | None:
        """Returns the object that is remembered by `name`, for a write to it."""
        entry = self._entries.get(name)
        return None if entry is None else Known(entry.uid, str(entry.version))

    @property
    def version(self) -> int:
        """The version up to which all objects have been shown."""
        return self._version

    @property
    def newest(self) -> int:
        """The newest version that has been shown, of all objects or in the answer to a write."""
        return max((self._version, *(entry.version for entry in self._entries.values())))

    @property
    def emptied(self) -> bool:
        """Whether the last object that was remembered has been removed, and none has come since."""
        return self._emptied

    def forget(self, name: str) -> None:
        """Remembers nothing by `name`."""
        self._entries.pop(name, None)

    def read(self, found: Object) -> tuple[str, Entry[T_co]]:
        """Returns the name that an object is remembered by, and what is remembered of it."""
        name, sandbox = self._identify(found)
        meta = found.metadata
        return name, Entry(int(meta.resourceVersion), meta.uid, sandbox, self._value(found))

    def listed(self, entries: list[tuple[str, Entry[T_co]]], version: int, newest: int) -> None:
        """Takes a list in place of everything that was remembered, but for our own writes that are newer than it.

        `entries` is what `read` returned for each object of the list. `newest` is what the property was before the list was
        asked for: an older list is of another history.
        """
        before = self._entries
        if version < newest:
            self._rewound()
        else:
            entries = entries + [(name, entry) for name, entry in before.items() if entry.version > version]
        self._version = version
        self._entries = dict(sorted(entries, key=lambda one: one[1].version))
        self._emptied = not self._entries and (self._emptied or bool(before))
        for name, entry in (before | self._entries).items():
            if name not in before or name not in self._entries or before[name].value != entry.value:
                self._changed(entry.sandbox)

    def shown(self, found: Object) -> None:
        """Takes an object that a watch shows as added or changed."""
        name, sandbox = self._identify(found)
        if self._put(name, sandbox, found):
            self._changed(sandbox)
        self.passed(found)

    def removed(self, found: Object) -> None:
        """Takes the removal of an object, as a watch shows it.

        An object that no longer fits the selector is shown as removed too. A write of ours that put its label back can be
        newer than that.
        """
        name, gone = self.read(found)
        known = self._entries.get(name)
        if known is not None and known.uid == gone.uid and known.version < gone.version:
            del self._entries[name]
            self._emptied = not self._entries
            self._changed(gone.sandbox)
        self.passed(found)

    def passed(self, found: Object) -> None:
        """Notes that a watch has shown everything up to the version of an object.

        An API server may be behind another one that was read before: it shows again what has passed.
        """
        self._version = max(self._version, int(found.metadata.resourceVersion))

    def position(self, name: str) -> int:
        """Returns the version that the answer to a write of the object `name` has at least, as far as is known now."""
        known = self._entries.get(name)
        return self._version if known is None else known.version

    def answered(self, found: Object, position: int) -> None:
        """Takes the answer to a write, ahead of the watch. `position` is the object's from before the write."""
        name, sandbox = self._identify(found)
        if int(found.metadata.resourceVersion) < position:
            # What is remembered is of another history of the cluster.
            self._entries.pop(name, None)
            self._rewound()
        self._put(name, sandbox, found)

    def _put(self, name: str, sandbox: str, found: Object) -> bool:
        """Takes an object unless the watch has gone past it, since it may be removed by now. Returns whether it is new.

        A watch shows every write of ours as well, whose answer is remembered already: it is not read again.
        """
        known = self._entries.get(name)
        version = int(found.metadata.resourceVersion)
        if version <= max(self._version, 0 if known is None else known.version):
            return False
        value = self._value(found)
        self._entries[name] = Entry(version, found.metadata.uid, sandbox, value)
        self._emptied = False
        return known is None or known.value != value
