"""Frames of SPDY/3.1, against the bytes of the draft (draft-mbelshe-httpbis-spdy-00)."""

import struct
import zlib

import pytest
from sandbox_server.engines.kubernetes import spdy
from sandbox_server.engines.kubernetes.spdy import Frame, Kind

REPLY = bytes.fromhex("80030002 00000006 00000003 0000")
RESET = bytes.fromhex("80030003 00000008 00000003 00000001")
PING = bytes.fromhex("80030006 00000004 00000002")
GOAWAY = bytes.fromhex("80030007 00000008 00000003 00000000")
WINDOW = bytes.fromhex("80030009 00000008 00000003 00010000")
DATA = bytes.fromhex("00000003 00000002") + b"hi"
LAST = bytes.fromhex("00000003 01000000")
ALL = REPLY + PING + DATA + WINDOW + RESET + LAST + GOAWAY
FRAMES = [
    Frame(Kind.SYN_REPLY, 3, REPLY[8:]),
    Frame(Kind.PING, 0, PING[8:]),
    Frame(Kind.DATA, 3, b"hi"),
    Frame(Kind.WINDOW_UPDATE, 3, WINDOW[8:]),
    Frame(Kind.RST_STREAM, 3, RESET[8:]),
    Frame(Kind.DATA, 3, b"", fin=True),
    Frame(Kind.GOAWAY, 0, GOAWAY[8:]),
]


@pytest.mark.parametrize("size", [1, 2, 5, 9, 1000])
def test_frames_are_read_wherever_they_are_cut(size: int) -> None:
    reader = spdy.Reader(100)
    found = [frame for begin in range(0, len(ALL), size) for frame in reader.feed(ALL[begin : begin + size])]
    assert found == FRAMES


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("80020002 00000004 00000003", "version"),
        ("80030005 00000000", "type 5"),
        ("80030002 00000002 0000", "short"),
        ("00000003 00000065", "101 bytes"),
        ("80030002 00ffffff", "16777215 bytes"),
    ],
)
def test_what_is_no_frame_is_refused(wrong: str, words: str) -> None:
    with pytest.raises(spdy.Broken, match=words):
        list(spdy.Reader(100).feed(bytes.fromhex(wrong)))


def test_data_and_pongs_are_written_as_they_are_read() -> None:
    assert spdy.data(3, b"hi") == DATA
    assert spdy.data(3, b"", fin=True) == LAST
    assert spdy.pong(FRAMES[1]) == PING


def test_headers_of_several_streams_are_compressed_as_one() -> None:
    writer, inflate = spdy.Writer(), zlib.decompressobj()
    for stream, headers in ((1, {"streamtype": "error", "port": "80"}), (3, {"streamtype": "data", "port": "80"})):
        frame = writer.open(stream, headers)
        (read,) = spdy.Reader(1000).feed(frame)
        assert (read.kind, read.stream, read.fin) == (Kind.SYN_STREAM, stream, False)
        # No associated stream, priority 0, no slot.
        assert read.data[4:10] == bytes(6)
        words = [word for pair in headers.items() for word in pair]
        packed = b"".join(struct.pack(">I", len(word)) + word.encode() for word in words)
        assert inflate.decompress(read.data[10:]) == struct.pack(">I", 2) + packed
