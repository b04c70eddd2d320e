"""Whose turn it is to be verified."""

from sandbox_server.domain.sandbox import Key
from sandbox_server.snapshots.turns import Turns

A, B, C = (Key("a", name) for name in "123")
OTHER = Key("b", "1")


def test_who_waits_longest_is_next() -> None:
    turns = Turns(1)
    assert [turns.take(key) for key in (A, B, C, A)] == [True, False, False, True]
    assert not turns.take(C)
    assert turns.end(A) == B
    assert (A in turns, B in turns, len(turns)) == (False, True, 1)
    assert [turns.end(B), turns.end(C)] == [C, None]


def test_another_namespace_goes_before() -> None:
    turns = Turns(1)
    for key in (A, B, OTHER, C):
        turns.take(key)
    assert [turns.end(A), turns.end(OTHER), turns.end(B)] == [OTHER, B, C]


def test_who_gives_up_its_place_gets_no_turn_and_ends_none() -> None:
    turns = Turns(1)
    for key in (A, B, C):
        turns.take(key)
    assert turns.end(B) is None
    assert turns.end(A) == C


def test_what_was_begun_before_is_kept_beyond_the_room_and_nobody_follows_it_before_there_is_room() -> None:
    turns = Turns(1)
    turns.take(A)
    turns.keep(B)
    assert not turns.take(C)
    assert turns.end(A) is None
    assert turns.end(B) == C
