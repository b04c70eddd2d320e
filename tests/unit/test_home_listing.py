"""What one home lacks that another has, by what GNU find says of both."""

from typing import Any

import pytest
from sandbox_server.engines.kubernetes import home_listing
from sandbox_server.engines.kubernetes.home_listing import Changes, Entry, Listing

HOME = Entry(b"r", b"d", b"755", b"1001", b"1001", b"4096", b"1.5", b"9.9", b"1:1", b"2", b"", b"")


def entry(name: bytes, kind: bytes = b"f", place: bytes = b"", **changes: Any) -> Entry:
    made = HOME._replace(kind=kind, size=b"3", place=place or b"1:" + name, links=b"1", name=name)
    return made._replace(**changes)


def listing(*entries: Entry) -> Listing:
    return {one.name: one for one in (HOME, *entries)}


def test_a_list_is_parsed_whatever_the_names_are() -> None:
    entries = [HOME, entry(b"line\nbreak \xff"), entry(b"link", b"l", target=b"a b")]
    printed = b"".join(b"\0".join(one) + b"\0" for one in entries)
    assert [*home_listing.parse(printed).values()] == entries
    with pytest.raises(ValueError, match="cut"):
        home_listing.parse(printed[:-3])


@pytest.mark.parametrize(
    "changes",
    [{"mode": b"600"}, {"user": b"0"}, {"group": b"0"}, {"size": b"4"}, {"modified": b"2.5"}, {"target": b"elsewhere"}],
)
def test_each_attribute_counts(changes: dict[str, bytes]) -> None:
    source, target = listing(entry(b"d", b"d"), entry(b"d/a", **changes)), listing(entry(b"d", b"d"), entry(b"d/a"))
    # The folders around are sent too: what is in them changes their times.
    assert home_listing.changes(source, target) == Changes((), (b"", b"d", b"d/a"))


def test_fractions_of_seconds_and_what_a_copy_cannot_have_do_not_count() -> None:
    source = listing(entry(b"a", modified=b"1.1234567890", changed=b"1.0", place=b"1:7"))
    target = listing(entry(b"a", modified=b"1.0000000000", changed=b"2.0", place=b"2:9"))
    assert not home_listing.changes(source, target)
    assert home_listing.digest(source) != home_listing.digest(target)


def test_what_is_gone_or_of_another_kind_is_removed() -> None:
    source, target = listing(entry(b"a", b"d"), entry(b"a/b")), listing(entry(b"a"), entry(b"old"))
    assert home_listing.changes(source, target) == Changes((b"a", b"old"), (b"", b"a", b"a/b"))


def test_all_names_of_a_file_are_sent_together() -> None:
    linked = [entry(name, place=b"1:5", links=b"2") for name in (b"a", b"b")]
    apart = [entry(name) for name in (b"a", b"b")]
    assert home_listing.changes(listing(*linked), listing(*apart)).sent == (b"", b"a", b"b")
    assert home_listing.changes(listing(*apart), listing(*linked)).sent == (b"", b"a", b"b")
    assert home_listing.contents(listing(*linked), [b"b"]).sent == (b"", b"a", b"b")
    elsewhere = [one._replace(place=b"2:8") for one in linked]
    assert not home_listing.changes(listing(*linked), listing(*elsewhere))
