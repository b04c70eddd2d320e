"""What is in a home, as GNU find lists it, and what one home lacks that another has. Names are bytes without NUL."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

FORMAT = "%y %m %U %G %s %T@ %C@ %D:%i %n".replace(" ", r"\0") + r"\0%l\0%P\0"
"""Of `find -printf`: the fields of an `Entry`, but for `readable`, which comes before them."""
_FIELDS = 12
_READABLE, _FILE, _FOLDER, _LINK = b"r", b"f", b"d", b"l"


class Entry(NamedTuple):
    """A file, a folder or anything else, as find says it. `place`: its device and inode; `links`: how many names it has."""

    readable: bytes
    kind: bytes
    mode: bytes
    user: bytes
    group: bytes
    size: bytes
    modified: bytes
    changed: bytes
    place: bytes
    links: bytes
    target: bytes
    name: bytes


Listing = Mapping[bytes, Entry]


@dataclass(frozen=True, slots=True)
class Changes:
    """What has to be done in a home so that it is as another: names to remove, and names to send."""

    gone: tuple[bytes, ...]
    sent: tuple[bytes, ...]

    def __bool__(self) -> bool:
        return bool(self.gone or self.sent)


def parse(printed: bytes) -> Listing:
    """Returns the entries by their names; that of the home itself is empty. Raises ValueError if the last one is cut."""
    fields = printed.split(b"\0")
    if fields.pop() or len(fields) % _FIELDS:
        raise ValueError("the list of files is cut")
    entries = (Entry(*fields[begin : begin + _FIELDS]) for begin in range(0, len(fields), _FIELDS))
    return {one.name: one for one in entries}


def unreadable(listing: Listing) -> list[bytes]:
    """Returns the names of what cannot be read."""
    return sorted(one.name for one in listing.values() if one.readable != _READABLE)


def digest(listing: Listing) -> str:
    """Returns a digest that another state of any of the files has not: it has the time of the last change of each."""
    made = hashlib.sha256()
    for name in sorted(listing):
        made.update(b"\0".join(listing[name]) + b"\0")
    return made.hexdigest()


def newest(listing: Listing) -> list[bytes]:
    """Returns the names, those first that have changed last."""
    return sorted(listing, key=lambda name: float(listing[name].changed), reverse=True)


def files(listing: Listing) -> tuple[int, int]:
    """Returns how many files there are, and their bytes."""
    sizes = [int(one.size) for one in listing.values() if one.kind == _FILE]
    return len(sizes), sum(sizes)


def changes(source: Listing, target: Listing) -> Changes:
    """Returns what has to be done in `target`, as far as it shows without the contents."""
    wanted, there = dict(_looks(source)), dict(_looks(target))
    gone = {name for name, one in target.items() if name not in source or source[name].kind != one.kind}
    differ = {name for name, look in wanted.items() if there.get(name) != look or name in gone}
    return _whole(source, gone, differ)


def contents(source: Listing, differ: Iterable[bytes]) -> Changes:
    """Returns what has to be done where only the contents of some files differ."""
    return _whole(source, (), differ)


def _whole(source: Listing, gone: Iterable[bytes], differ: Iterable[bytes]) -> Changes:
    """Adds the other names of the same files, and the folders around all: their times change with what is in them."""
    gone, groups = sorted(gone), _groups(source)
    sent = {other for name in differ for other in (name, *groups.get(name, ()))}
    around = {parent for name in (*gone, *sent) for parent in _parents(name) if parent in source}
    return Changes(tuple(gone), tuple(sorted(sent | around)))


def _looks(listing: Listing) -> Iterator[tuple[bytes, tuple[object, ...]]]:
    """Yields what has to be equal of each entry. File systems keep fractions of seconds with different precision."""
    groups = _groups(listing)
    for name, one in listing.items():
        size = one.size if one.kind == _FILE else b""
        mode = b"" if one.kind == _LINK else one.mode
        modified = one.modified.partition(b".")[0]
        yield name, (one.kind, mode, one.user, one.group, size, modified, one.target, groups.get(name))


def _groups(listing: Listing) -> dict[bytes, tuple[bytes, ...]]:
    """Returns all names of each file that has several."""
    names: dict[bytes, list[bytes]] = defaultdict(list)
    for name, one in listing.items():
        if one.kind != _FOLDER and one.links != b"1":
            names[one.place].append(name)
    return {name: tuple(sorted(group)) for group in names.values() if len(group) > 1 for name in group}


def _parents(name: bytes) -> Iterator[bytes]:
    while name:
        name = name.rpartition(b"/")[0]
        yield name
