"""Encodes pages that every client can receive."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server.domain.event import Event
from sandbox_server.rpc import filters

T = TypeVar("T")
Answer = type[pb.ListSandboxesResponse] | type[pb.ListVolumesResponse]
"""The answer to a list. Both have a token and a sequence beside their entries."""
PAGE_BYTES = 3 * 1024 * 1024
"""gRPC clients receive 4 MiB unless configured otherwise. A sandbox at its limits is smaller than half of this."""
_REST = 256
"""Bytes for the token of the next page and the sequences."""


@dataclass(frozen=True, slots=True)
class Filled(Generic[T]):
    """The encoded entries of a page, the last entry that is in it, and whether it left one out."""

    written: list[bytes]
    last: T | None
    more: bool


def filled(most: int, found: Iterable[T], encoded: Callable[[T], bytes]) -> Filled[T]:
    """Returns a page of at most `most` entries, fewer if they are large, and one at least if there is any.

    `encoded` returns the answer with one entry.
    """
    written: list[bytes] = []
    left = PAGE_BYTES - _REST
    last: T | None = None
    for one in found:
        if len(written) == most:
            return Filled(written, last, more=True)
        part = encoded(one)
        if written and len(part) > left:
            return Filled(written, last, more=True)
        written.append(part)
        left -= len(part)
        last = one
    return Filled(written, last, more=False)


def writer(most: int, whole: Callable[[Event], Any]) -> Callable[[int, Iterator[Event]], bytes]:
    """Returns the `paged` function for ListSandboxes. `whole` returns the Sandbox message of an event."""
    return paged(most, pb.ListSandboxesResponse, lambda event: pb.ListSandboxesResponse(sandboxes=[whole(event)]))


def paged(
    most: int, answer: Answer, one: Callable[[Event], pb.ListSandboxesResponse | pb.ListVolumesResponse]
) -> Callable[[int, Iterator[Event]], bytes]:
    """Returns a function that encodes a page of a list from the log's sequence and the last events of sandboxes.

    The page has at most `most` entries, fewer if they are large. `one` returns an answer with the entry of an event alone;
    it is called on the thread that reads the sandboxes.
    """

    def encoded(event: Event) -> bytes:
        # Protobuf reads concatenated messages as one message with all their entries.
        return one(event).SerializeToString()

    def write(sequence: int, found: Iterator[Event]) -> bytes:
        page = filled(most, found, encoded)
        following = page.last.sandbox.key if page.more and page.last is not None else None
        rest = answer(next_page_token=filters.page_token(following), sequence=sequence)
        return b"".join((*page.written, rest.SerializeToString()))

    return write
