"""The content in an encoded message of WriteFile, which is taken without a copy."""

import pytest
from sandbox.v1 import access_pb2 as pb
from sandbox_server.access import content, file_scripts
from sandbox_server.domain import errors
from sandbox_server.rpc import files


@pytest.mark.parametrize("length", [0, 1, 127, 128, 129, 16383, 16384, 16385, files.DATA_MOST])
@pytest.mark.parametrize("others", [{}, {"path": b"p"}, {"size": 1}])
def test_content_of_every_length_is_what_protobuf_reads(length: int, others: dict[str, object]) -> None:
    data = bytes(one % 251 for one in range(length))
    encoded = pb.WriteFileRequest(data=data, **others).SerializeToString()  # type: ignore[arg-type]
    assert files._written(encoded) == data


def test_content_that_is_sent_twice_in_a_message_is_the_last_one() -> None:
    encoded = b"".join(pb.WriteFileRequest(data=one).SerializeToString() for one in (b"first", b"second"))
    assert files._written(encoded) == b"second"


@pytest.mark.parametrize("encoded", [b"\x42", b"\x42\x05abc", b"\x42\x80", b"\x42\xff\xff\xff\xff\xff\xff", b"\xff"])
def test_malformed_message_is_refused(encoded: bytes) -> None:
    with pytest.raises(errors.Invalid):
        files._written(encoded)


@pytest.mark.parametrize(
    ("size", "lengths"),
    [
        (5, [5]),
        (file_scripts.BLOCK + 5, [file_scripts.BLOCK, 5]),
        (content.FRAME_MOST + 5, [content.FRAME_MOST, 5]),
        (
            2 * content.FRAME_MOST - 1,
            [content.FRAME_MOST, content.FRAME_MOST - file_scripts.BLOCK, file_scripts.BLOCK - 1],
        ),
    ],
)
def test_frames_are_whole_blocks_but_for_the_last(size: int, lengths: list[int]) -> None:
    found: list[int] = []
    while left := size - sum(found):
        found.append(content._length(left))
    assert found == lengths
