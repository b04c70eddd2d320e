"""Encodes a page of ListSandboxes that every client can receive."""

from collections.abc import Callable, Iterator
from typing import Any

from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server.domain.event import Event
from sandbox_server.domain.sandbox import Key
from sandbox_server.rpc import convert

PAGE_BYTES = 3 * 1024 * 1024
"""gRPC clients receive 4 MiB unless configured otherwise. A sandbox at its limits is smaller than half of this."""
_REST = 256
"""Bytes for the token of the next page and the sequence."""


def writer(most: int, whole: Callable[[Event], Any]) -> Callable[[int, Iterator[Event]], bytes]:
    """Returns a function that encodes a page from the log's sequence and the last events of sandboxes.

    The page has at most `most` sandboxes, fewer if they are large. `whole` returns the Sandbox message of an event; it
    is called on the thread that reads the sandboxes.
    """

    def write(sequence: int, found: Iterator[Event]) -> bytes:
        # Protobuf reads concatenated messages as one message with all their sandboxes.
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
