"""Frames of SPDY/3.1, as far as a port forward needs them.

Of what is compressed, the headers, this side sends what any zlib reader takes, and reads nothing: no header of an answer
matters here. So the dictionary of the protocol is not needed. There are no windows: Kubernetes' implementation
(github.com/moby/spdystream) knows none, and the connection below holds up whoever sends too much.
"""

import enum
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_HEAD = struct.Struct(">II")
_CONTROL = 0x8003 << 16
"""The first word of a control frame: the bit that says so, the version, and the type."""
_FIN = 0x01
_LENGTH_MOST = 0xFFFFFF
_ID_MOST = 0x7FFFFFFF


class Kind(enum.IntEnum):
    """The types of control frames; 0 for data, which have none."""

    DATA = 0
    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class Frame(NamedTuple):
    """A frame: of which stream, what is in it, and whether its sender sends no more on the stream.

    `stream` is 0 for a frame that is about no stream. `data` of a control frame is all that follows its head.
    """

    kind: Kind
    stream: int
    data: bytes
    fin: bool = False


class Broken(Exception):
    """What arrives is not SPDY/3.1, or has a frame that is too large."""


class Reader:
    """Splits bytes into frames. A frame of more than `most` bytes is refused."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yields the frames that are complete by now. Raises `Broken`."""
        self._rest += data
        while len(self._rest) >= _HEAD.size:
            first, second = _HEAD.unpack_from(self._rest)
            length = second & _LENGTH_MOST
            if length > self._most:
                raise Broken(f"a frame has {length} bytes")
            end = _HEAD.size + length
            if len(self._rest) < end:
                return
            body, self._rest = self._rest[_HEAD.size : end], self._rest[end:]
            yield _frame(first, second >> 24, body)


def _frame(first: int, flags: int, body: bytes) -> Frame:
    if not first & 0x80000000:
        return Frame(Kind.DATA, first, body, bool(flags & _FIN))
    if first & 0xFFFF0000 != _CONTROL:
        raise Broken("a frame is of another version")
    try:
        kind = Kind(first & 0xFFFF)
    except ValueError:
        raise Broken(f"a frame is of type {first & 0xFFFF}") from None
    of_stream = kind in (Kind.SYN_STREAM, Kind.SYN_REPLY, Kind.RST_STREAM, Kind.HEADERS, Kind.WINDOW_UPDATE)
    if of_stream and len(body) < 4:
        raise Broken(f"a frame of {kind.name} is too short")
    stream = int.from_bytes(body[:4], "big") & _ID_MOST if of_stream else 0
    return Frame(kind, stream, body, bool(flags & _FIN) and kind in (Kind.SYN_STREAM, Kind.SYN_REPLY, Kind.HEADERS))


class Writer:
    """Makes frames. The headers of a connection are compressed as one."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj()

    def open(self, stream: int, headers: Mapping[str, str]) -> bytes:
        """Returns the frame that opens a stream. The names are in lower case."""
        block = struct.pack(">I", len(headers)) + b"".join(
            struct.pack(">I", len(word)) + word for pair in headers.items() for word in (one.encode() for one in pair)
        )
        packed = self._compressor.compress(block) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        # The stream that it belongs to, of which there is none, its priority and its slot.
        return _control(Kind.SYN_STREAM, struct.pack(">IIBB", stream, 0, 0, 0) + packed)


def data(stream: int, sent: bytes, *, fin: bool = False) -> bytes:
    """Returns a frame with data."""
    return _HEAD.pack(stream, (_FIN if fin else 0) << 24 | len(sent)) + sent


def pong(ping: Frame) -> bytes:
    """Returns the answer to a ping: the same."""
    return _control(Kind.PING, ping.data)


def _control(kind: Kind, body: bytes) -> bytes:
    return _HEAD.pack(_CONTROL | kind, len(body)) + body
