"""Lines of a kubelet's answer, with their times."""

from datetime import UTC, datetime

import pytest
from sandbox_server.engines.kubernetes import log_lines
from sandbox_server.engines.kubernetes.log_lines import Piece, Splitter

FIRST = 1_700_000_000 * log_lines.SECOND
ANSWER = (
    b"the rest of a line whose time was left out\n"
    b"2023-11-14T22:13:20.000000001Z one\n"
    b"2023-11-14T23:13:20.000000002+01:00 \xff\0 two \r\n"
    b"2023-11-14T22:13:20Z \n"
    b"2023-11-14T22:13:21.5Z no end"
)
LINES = [
    (None, b"the rest of a line whose time was left out\n"),
    (FIRST + 1, b"one\n"),
    (FIRST + 2, b"\xff\0 two \r\n"),
    (FIRST, b"\n"),
    (FIRST + 3 * log_lines.SECOND // 2, b"no end"),
]


def joined(pieces: list[Piece]) -> list[tuple[int | None, bytes]]:
    lines: list[tuple[int | None, bytes]] = []
    for one in pieces:
        if one.begins:
            lines.append((one.time, b""))
        time, data = lines[-1]
        assert one.time == time
        lines[-1] = (time, data + one.data)
    return lines


@pytest.mark.parametrize("most", [1000, 64])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 31, 1000])
def test_answer_is_split_alike_wherever_it_is_cut(size: int, most: int) -> None:
    splitter = Splitter(most)
    pieces = [piece for begin in range(0, len(ANSWER), size) for piece in splitter.feed(ANSWER[begin : begin + size])]
    pieces += splitter.end()
    assert joined(pieces) == LINES
    assert [one.ends for one in pieces] == [True, True, True, True, False]


def test_long_line_comes_in_pieces_before_its_end() -> None:
    splitter = Splitter(100)
    begun = list(splitter.feed(b"2023-11-14T22:13:20Z " + b"x" * 250))
    rest = list(splitter.feed(b"y\n2023-11-14T22:13:21Z z\n"))
    assert [len(one.data) for one in begun] == [100, 79]
    assert all(len(one.data) <= 100 for one in rest)
    assert joined(begun + rest) == [(FIRST, b"x" * 250 + b"y\n"), (FIRST + log_lines.SECOND, b"z\n")]
    assert [one.begins for one in begun + rest] == [True, False, False, True]


@pytest.mark.parametrize(
    "line", [b"", b"Z ", b"2023-11-14T22:13:20", b"2023-13-14T22:13:20Z x", b"0000-01-01T00:00:00Z x"]
)
def test_what_is_no_time_is_none(line: bytes) -> None:
    assert log_lines.parsed(line) == (None, 0)


def test_times_as_the_contract_and_as_the_api_server_have_them() -> None:
    assert log_lines.moment(FIRST + 1_234_567) == datetime(2023, 11, 14, 22, 13, 20, 1234, tzinfo=UTC)
    assert log_lines.since(FIRST // log_lines.SECOND) == "2023-11-14T22:13:20Z"
