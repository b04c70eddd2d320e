"""How live replicas share the namespaces."""

import collections
import dataclasses

from hypothesis import given
from hypothesis import strategies as st
from sandbox_server.domain.lease import Replica, shares

NAMES = st.lists(st.text("abcdefgh", min_size=1, max_size=4), unique=True, max_size=12)


def replicas(names: list[str], namespaces: list[str]) -> list[Replica]:
    return [Replica(one, "kubernetes", frozenset(namespaces)) for one in names]


@given(NAMES, NAMES)
def test_each_namespace_has_one_holder_and_each_replica_its_part(names: list[str], namespaces: list[str]) -> None:
    shared = shares(namespaces, replicas(names, namespaces))
    assert shared == shares(list(reversed(namespaces)), replicas(list(reversed(names)), namespaces))
    assert shared.keys() == ({*namespaces} if names else set())
    counts = collections.Counter(shared.values())
    assert all(counts[name] <= -(-len(namespaces) // len(names)) for name in names)


def test_replica_that_leaves_moves_little_more_than_its_own_namespaces() -> None:
    namespaces = [f"tenant-{number}" for number in range(60)]
    names = [f"replica-{number}" for number in range(6)]
    before = shares(namespaces, replicas(names, namespaces))
    after = shares(namespaces, replicas(names[1:], namespaces))
    moved = [one for one in namespaces if before[one] != after[one]]
    assert len(moved) <= 2 * len([one for one in namespaces if before[one] == names[0]])


def test_replicas_that_are_cut_off_have_a_share_only_if_all_are() -> None:
    names = frozenset({"a", "b", "c", "d"})
    one, two = (Replica(name, "kubernetes", names) for name in ("one", "two"))
    cut_one, cut_two = (dataclasses.replace(each, cut_off=True) for each in (one, two))
    assert set(shares(names, [one, cut_two]).values()) == {"one"}
    assert shares(names, [cut_one, cut_two]) == shares(names, [one, two])


def test_replica_that_has_not_read_its_tenants_moves_nothing() -> None:
    namespaces = [f"tenant-{number}" for number in range(7)]
    before = replicas(["one", "two"], namespaces)
    assert shares(namespaces, [*before, Replica("new", "kubernetes", frozenset())]) == shares(namespaces, before)


def test_namespace_goes_to_a_replica_whose_tenants_have_it() -> None:
    old = Replica("old", "kubernetes", frozenset({"a", "b"}))
    new = Replica("new", "kubernetes", frozenset({"a", "b", "c"}))
    assert shares(["a", "b", "c"], [old, new])["c"] == "new"
    # Nobody follows it, and somebody has to say so.
    assert shares(["d"], [old, new])["d"] in ("old", "new")
