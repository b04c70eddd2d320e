"""The contract of calls about files. Each engine runs these tests against its own ground, through three fixtures: `filer`, a
client in a sandbox that runs; `home`, the folder of this machine that is its home; and `inside`, what is before the name of a
file there as the sandbox sees it."""

import asyncio
import contextlib
import os
import stat
import uuid
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest
from sandbox.v1 import access_pb2 as pb
from sandbox_server.access import content as framing
from sandbox_server.access import files

from tests.support.filing import Filer
from tests.support.scripted import until
from tests.support.working import refusal

A = "files-a"
ODD = [
    b"plain",
    b" two  words ",
    b"-n",
    b"--help",
    b"*",
    b"$(touch made)`touch made`",
    b'it\'s "quoted" \\n \\0 %s %',
    b"line\nend\n",
    b"\n",
    b"\xff\xfe\x80\x81\x88",
    "ü漢".encode(),
    bytes(set(range(1, 256)) - set(b"/")),
    b"n" * 255,
    b": Permission denied",
]


def named(home: Path, name: bytes) -> Path:
    return home / os.fsdecode(name)


def left(home: Path) -> list[Path]:
    """What writes have left beside their files."""
    return list(home.rglob(".sandbox-write-*"))


async def refused(call: Awaitable[Any]) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return refusal(caught.value)[:2]


async def any_name(filer: Filer, inside: bytes, home: Path) -> None:
    """Writes, reads and describes files of odd names."""
    content = bytes(range(256)) * 3
    for name in ODD:
        written = await filer.write(name, content[:100], content[100:])
        assert named(home, name).read_bytes() == content
        assert (written.path, written.type, written.size) == (inside + name, pb.FILE_TYPE_FILE, 768)
        assert await filer.read(name) == (written, content)
        assert await filer.stat(inside + name) == written
        found = named(home, name).stat()
        assert written.modified_at.ToNanoseconds() == found.st_mtime_ns
        assert written.mode == stat.S_IMODE(found.st_mode) == 0o644
    assert sorted(os.fsencode(one.name) for one in home.iterdir()) == sorted(ODD)


@pytest.mark.slow
async def test_files_of_any_name_are_written_read_and_described(filer: Filer, inside: bytes, home: Path) -> None:
    await any_name(filer, inside, home)


@pytest.mark.slow
async def test_deep_path(filer: Filer, home: Path) -> None:
    names = ["d" * 200] * 15
    place = home
    for one in names:
        place /= one
        os.mkdir(place)  # noqa: PTH102 - without a look at each parent
    path = os.fsencode("/".join([*names, "file"]))
    await filer.write(path, b"deep")
    assert (await filer.read(path))[1] == b"deep"


@pytest.mark.slow
async def test_content_of_any_size(filer: Filer, home: Path) -> None:
    for size in (0, 1, files.CHUNK, files.CHUNK + 1, framing.FRAME, 3 * framing.FRAME + 5):
        content = os.urandom(size)
        parts = [content[begin : begin + 700_000] for begin in range(0, size, 700_000)]
        written = await filer.write(b"file", *parts, size=size)
        assert written.size == size
        assert (home / "file").read_bytes() == content
        assert (await filer.read(b"file"))[1] == content
        for offset, limit in ((0, 0), (1, 5), (size // 2, files.CHUNK), (size, 9), (size + 9, 9), (0, size + 9)):
            assert (await filer.read(b"file", offset=offset, limit=limit))[1] == content[offset : offset + limit]
        assert (await filer.read(b"file", offset=size // 3))[1] == content[size // 3 :]


@pytest.mark.slow
async def test_mode_is_the_one_asked_for_else_that_of_the_former_file(filer: Filer, home: Path) -> None:
    assert (await filer.write(b"run", b"1", mode=0o4751)).mode == 0o4751
    assert (await filer.write(b"run", b"2")).mode == 0o4751
    assert (await filer.write(b"run", b"3", mode=0)).mode == 0
    assert stat.S_IMODE((home / "run").stat().st_mode) == 0


@pytest.mark.slow
async def test_write_goes_through_links_and_leaves_other_hard_links(filer: Filer, home: Path) -> None:
    (home / "sub").mkdir()
    (home / "sub" / "real").write_text("former")
    os.link(home / "sub" / "real", home / "hard")
    (home / "folder").symlink_to("sub")
    (home / "sub" / "inner").symlink_to("../folder/real")
    (home / "link").symlink_to("folder/inner")
    await filer.write(b"link", b"new")
    assert (home / "link").is_symlink()
    assert (home / "sub" / "real").read_bytes() == b"new"
    assert (home / "hard").read_text() == "former"
    (home / "dangling").symlink_to("sub/made")
    await filer.write(b"dangling", b"made")
    assert (home / "sub" / "made").read_bytes() == b"made"
    found = await filer.stat(b"dangling")
    assert (found.type, found.link_target) == (pb.FILE_TYPE_LINK, b"sub/made")
    assert (await filer.stat(b"dangling", follow=True)).type == pb.FILE_TYPE_FILE
    assert left(home) == []


@pytest.mark.fault(100)
@pytest.mark.slow
async def test_what_is_no_regular_file_is_refused_and_described(filer: Filer, home: Path) -> None:
    (home / "folder").mkdir()
    os.mkfifo(home / "fifo")
    (home / "loop").symlink_to("loop")
    (home / "one").symlink_to("two")
    (home / "two").symlink_to("one")
    (home / "file").touch()
    for name in (b"folder", b"fifo", b"loop", b"one", b"/dev/zero", b".", b"/"):
        assert await refused(filer.read(name)) == ("FAILED_PRECONDITION", "NOT_A_FILE"), name
        assert await refused(filer.write(name, b"x")) == ("FAILED_PRECONDITION", "NOT_A_FILE"), name
    for name in (b"no", b"no/no"):
        assert await refused(filer.read(name)) == ("NOT_FOUND", "FILE_NOT_FOUND"), name
        assert await refused(filer.stat(name)) == ("NOT_FOUND", "FILE_NOT_FOUND"), name
    assert await refused(filer.write(b"no/no", b"x")) == ("NOT_FOUND", "FILE_NOT_FOUND")
    for call in (filer.read(b"file/x"), filer.stat(b"file/x"), filer.write(b"file/x")):
        assert await refused(call) == ("FAILED_PRECONDITION", "NOT_A_DIRECTORY")
    assert (await filer.stat(b"fifo")).type == pb.FILE_TYPE_OTHER
    assert (await filer.stat(b"folder")).type == pb.FILE_TYPE_DIRECTORY
    assert await refused(filer.stat(b"loop", follow=True)) == ("FAILED_PRECONDITION", "NOT_A_FILE")
    assert (await filer.stat(b"loop")).link_target == b"loop"


async def test_file_that_says_it_is_empty_is_read_to_its_end(filer: Filer) -> None:
    described, content = await filer.read(b"/proc/self/status")
    assert described.size == 0
    assert content.startswith(b"Name:")
    assert (await filer.read(b"/proc/self/status", offset=5, limit=4))[1] == content[5:9]


@pytest.mark.slow
async def test_huge_sparse_file_is_sent_as_fast_as_it_is_read(filer: Filer, home: Path) -> None:
    with (home / "sparse").open("wb") as file:
        file.truncate(1 << 42)
    size = 0
    stream: Any = filer.reading(b"sparse")
    async for one in stream:
        size += len(one.data)
        if size > 3_000_000:
            stream.cancel()
            break
    assert (await filer.read(b"sparse", offset=(1 << 42) - 3))[1] == bytes(3)


@pytest.mark.fault(101)
@pytest.mark.slow
async def test_file_that_changes_while_it_is_read_is_told(filer: Filer, home: Path) -> None:
    (home / "log").write_bytes(bytes(80 << 20))
    stream: Any = filer.reading(b"log")
    await stream.read()
    with (home / "log").open("ab") as file:
        file.write(b"more")

    async def rest() -> int:
        size = 0
        while (one := await stream.read()) is not grpc.aio.EOF:
            size += len(one.data)
        return size

    assert await refused(rest()) == ("ABORTED", "FILE_CHANGED")
    stream = filer.reading(b"log")
    described = (await stream.read()).file
    (home / "log").unlink()
    # It was opened before, and is complete.
    assert await rest() == described.size


@pytest.mark.slow
async def test_write_only_if_the_file_is_the_one_that_was_read(filer: Filer, home: Path) -> None:
    changed = ("ABORTED", "FILE_CHANGED")
    assert await refused(filer.write(b"file", b"x", if_match="*")) == changed
    assert not (home / "file").exists()
    first = await filer.write(b"file", b"1")
    second = await filer.write(b"file", b"2", if_match=first.etag)
    assert second.etag != first.etag
    assert await refused(filer.write(b"file", b"3", if_match=first.etag)) == changed
    await filer.write(b"file", b"4", if_match="*")
    assert (home / "file").read_bytes() == b"4"
    await until(lambda: left(home) == [])


@pytest.mark.slow
async def test_repeat_of_a_write_writes_nothing_and_another_payload_is_refused(filer: Filer, home: Path) -> None:
    before = await filer.write(b"file", b"before")
    request_id = str(uuid.uuid4())
    first = await filer.write(b"file", b"one", b"two", request_id=request_id, if_match=before.etag)
    again = await filer.write(b"file", b"onetw", b"o", request_id=request_id, if_match=before.etag)
    assert first == again
    reused = ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")
    assert await refused(filer.write(b"file", b"other", request_id=request_id, if_match=before.etag)) == reused
    assert await refused(filer.write(b"file", b"onetwo", request_id=request_id)) == reused
    await filer.write(b"file", b"later")
    changed = ("ABORTED", "FILE_CHANGED")
    call = filer.write(b"file", b"onetwo", request_id=request_id, if_match=before.etag)
    assert await refused(call) == changed
    assert (home / "file").read_bytes() == b"later"
    await until(lambda: left(home) == [])


@pytest.mark.slow
async def test_what_a_killed_write_left_is_removed_by_the_next_one(filer: Filer, home: Path) -> None:
    (home / ".sandbox-write-0123456789abcdef-1").write_text("of a former incarnation")
    (home / ".sandbox-write-mine").mkdir()
    await filer.write(b"file", b"x")
    assert sorted(one.name for one in home.iterdir()) == [".sandbox-write-mine", "file"]


@pytest.mark.slow
async def test_writes_at_the_same_time_leave_one_of_them(filer: Filer, home: Path) -> None:
    contents = [bytes([number]) * 300_000 for number in range(5)]
    await asyncio.gather(*(filer.write(b"file", one) for one in contents))
    assert (home / "file").read_bytes() in contents
    assert left(home) == []


async def directories(filer: Filer, inside: bytes, home: Path) -> None:
    """Makes, lists, moves and removes directories."""
    made = await filer.make(b"a/b", parents=True, mode=0o750)
    assert (made.path, made.type, made.mode) == (inside + b"a/b", pb.FILE_TYPE_DIRECTORY, 0o750)
    for name in ODD:
        await filer.write(b"a/" + name, name)
    assert await filer.names(b"a") == sorted([*ODD, b"b"])
    assert await filer.names(b"a", page_size=2) == sorted([*ODD, b"b"])
    moved = await filer.move(b"a", b"new\n")
    assert moved.path == inside + b"new\n"
    assert await refused(filer.remove(b"new\n")) == ("FAILED_PRECONDITION", "DIRECTORY_NOT_EMPTY")
    await filer.remove(b"new\n", recursive=True)
    assert list(home.iterdir()) == []


@pytest.mark.slow
async def test_directories_are_made_listed_moved_and_removed(filer: Filer, inside: bytes, home: Path) -> None:
    await directories(filer, inside, home)


@pytest.mark.slow
async def test_repeats_of_changes_take_effect_once(filer: Filer, home: Path) -> None:
    ids = {name: str(uuid.uuid4()) for name in ("make", "move", "remove", "missing")}
    made = await filer.make(b"folder", request_id=ids["make"])
    assert await filer.make(b"folder", request_id=ids["make"]) == made
    assert await refused(filer.make(b"folder")) == ("FAILED_PRECONDITION", "FILE_EXISTS")
    await filer.write(b"one", b"1")
    moved = await filer.move(b"one", b"two", request_id=ids["move"])
    assert await filer.move(b"one", b"two", request_id=ids["move"]) == moved
    await filer.write(b"one", b"another")
    assert await filer.move(b"one", b"two", request_id=ids["move"]) == moved
    assert (home / "one").read_bytes() == b"another"
    await filer.write(b"two", b"changed")
    assert await refused(filer.move(b"one", b"two", request_id=ids["move"])) == ("ABORTED", "FILE_CHANGED")
    await filer.remove(b"one", request_id=ids["remove"])
    await filer.remove(b"one", request_id=ids["remove"])
    await filer.write(b"one", b"made afterwards")
    # Refused if the file system has given the same inode to the new file.
    with contextlib.suppress(grpc.RpcError):
        await filer.remove(b"one", request_id=ids["remove"])
    assert (home / "one").read_bytes() == b"made afterwards"
    assert await refused(filer.remove(b"no", request_id=ids["missing"])) == ("NOT_FOUND", "FILE_NOT_FOUND")
    assert await refused(filer.remove(b"two", request_id=ids["remove"])) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")


@pytest.mark.slow
async def test_bad_fields_are_refused(filer: Filer) -> None:
    bad: list[dict[str, Any]] = [
        {"path": b""},
        {"path": b"a\0b"},
        {"path": b"x" * 256},
        {"path": b"a/" * 2001},
        {"path": b"a", "mode": 0o10000},
        {"path": b"a", "mode": -1},
        {"path": b"a", "size": -1},
        {"path": b"a", "if_match": "e" * 101},
        {"path": b"a", "data": bytes((1 << 20) + 1)},
        {"path": b"a", "request_id": "none"},
    ]
    for fields in bad:
        assert await refused(filer.write(**fields)) == ("INVALID_ARGUMENT", "INVALID_FIELDS")
    for fields in ({"path": b""}, {"path": b"a", "offset": -1}, {"path": b"a", "limit": -1}):
        assert await refused(filer.read(**fields)) == ("INVALID_ARGUMENT", "INVALID_FIELDS")
    too_much = filer.write(b"a", bytes((1 << 20) + 1))
    assert await refused(too_much) == ("INVALID_ARGUMENT", "INVALID_FIELDS")
    for call in (
        filer.remove(b"."),
        filer.remove(b"/", recursive=True),
        filer.move(b"./", b"a"),
        filer.move(b"a", b""),
        filer.make(b"a", mode=-1),
        filer.names(b"a", page_size=-1),
    ):
        assert await refused(call) == ("INVALID_ARGUMENT", "INVALID_FIELDS")
    listed = filer.stub.ListFiles(pb.ListFilesRequest(**filer.names_of, path=b".", page_token="?"))
    assert await refused(listed) == ("INVALID_ARGUMENT", "INVALID_FIELDS")
