"""Leases: which replica observes and reconciles a namespace. All values are frozen."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Replica:
    """A running process of the service.

    - `namespaces`: those of its tenants. A replica with an older token file lacks some.
    - `cut_off`: whether it gets no answer from the cluster.
    - `release`: its version, and `up_for` the seconds since it joined, by the clock of the database; None if its release did
      not store that. Both are for a person to read.
    - `documents`: the version of the documents that it understands; 0 if its release did not store that.
    """

    id: str
    engine: str
    namespaces: frozenset[str]
    cut_off: bool = False
    release: str = ""
    up_for: float | None = None
    documents: int = 0

    def excludes(self, other: "Replica") -> bool:
        """Whether this replica must not run beside another one: the sandboxes of the local engine are of one machine."""
        return self.id != other.id and (self.engine != other.engine or self.engine == "local")


@dataclass(frozen=True, slots=True)
class Sight:
    """What the holder of a namespace says of it.

    - `synced`: whether it observes the present.
    - `fault`: why not, as a message, where that is known.
    - `readable`: whether it may get the namespace itself; None if that is not known.
    """

    synced: bool = False
    fault: str = ""
    readable: bool | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """A namespace and who holds it.

    `epoch` grows whenever the namespace is taken, so that writes of a former holder are recognized. `remaining`,
    in seconds, is counted by the clock of the database; the lease has ended when none are left.
    """

    namespace: str
    holder: str
    epoch: int
    remaining: float
    sight: Sight


def shares(namespaces: Collection[str], replicas: Iterable[Replica]) -> Mapping[str, str]:
    """Returns for each namespace the id of the replica that is to hold it.

    Every replica computes the same from the same replicas. Each gets the same number of namespaces, or one more or less.
    A replica that comes or goes moves few namespaces: each goes to the replica that ranks highest for it by a hash of both
    names (rendezvous hashing), among those that have room. Replicas that are cut off get a share only if all are. A namespace
    that no replica has in its tenants is held too, since its sandboxes have a status that says so.
    """
    known = sorted(replicas, key=lambda one: one.id)
    # A replica that has just joined may not have read its tenants yet.
    left = [one for one in known if one.namespaces] or known
    shared: dict[str, str] = {}
    if not left:
        return shared
    room = -(-len(namespaces) // (sum(not one.cut_off for one in left) or len(left)))
    held = dict.fromkeys((one.id for one in left), 0)
    for namespace in sorted(namespaces):
        able = [one for one in left if namespace in one.namespaces] or left
        able = [one for one in able if not one.cut_off] or able
        # A namespace that only full replicas can take goes to one of them all the same.
        free = [one for one in able if held[one.id] < room] or able
        chosen = max(free, key=lambda one: _rank(namespace, one.id))
        held[chosen.id] += 1
        shared[namespace] = chosen.id
    return shared


def _rank(namespace: str, replica: str) -> bytes:
    return hashlib.sha256(f"{namespace} {replica}".encode()).digest()
