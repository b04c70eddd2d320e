"""A page of a list as it is written: it ends before it is larger than every client takes."""

from collections.abc import Callable, Iterator
from typing import Any

from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server.domain.event import Event
from sandbox_server.domain.sandbox import Key
from sandbox_server.rpc import convert

PAGE_BYTES = 3 * 1024 * 1024
"""gRPC clients take 4 MiB, unless they are configured otherwise. One sandbox at its limits has less than half of this."""
_REST = 256
"""Bytes for the token of the next page and the sequence."""


def writer(most: int, whole: Callable[[Event], Any]) -> Callable[[int, Iterator[Event]], bytes]:
    """Returns what writes a page: at most `most` of the sandboxes that it is given, as of a sequence.

    `whole` returns a Sandbox of the contract; the thread that reads the sandboxes calls it. Each sandbox is given as its last
    event.
    """

    def write(sequence: int, found: Iterator[Event]) -> bytes:
        # Messages that stand one after another are read as one, which has all their sandboxes.
        written: list[bytes] = []
        left = PAGE_BYTES - _REST
        last: Key | None = None
        following: Key | None = None
        for event in found:
            if len(written) == most:
                following = last
                break
            part = pb.ListSandboxesResponse(sandboxes=[whole(event)]).SerializeToString()
            if written and len(part) > left:
                following = last
                break
            written.append(part)
            left -= len(part)
            last = event.sandbox.key
        rest = pb.ListSandboxesResponse(next_page_token=convert.page_token(following), sequence=sequence)
        return b"".join((*written, rest.SerializeToString()))

    return write
