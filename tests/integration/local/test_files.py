"""Files of running sandboxes, through a real gRPC client, with and without isolation."""

import asyncio
import contextlib
import dataclasses
import os
import stat
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from sandbox.v1 import access_pb2 as pb
from sandbox.v1 import sandbox_pb2, sandbox_pb2_grpc
from sandbox_server.access import asking, file_scripts, files
from sandbox_server.access import content as framing
from sandbox_server.domain.phase import Phase

from tests.support.filing import Filer, filing
from tests.support.local import BOTH, LocalRig
from tests.support.waiting import PATIENCE
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


@pytest.fixture
def isolation() -> str:
    return "isolated"


@pytest.fixture
async def filer(rig: LocalRig) -> AsyncIterator[Filer]:
    async with filing(rig, A) as filer:
        yield filer


@pytest.fixture
def home(rig: LocalRig) -> Path:
    return rig.ground.home(A)


def named(home: Path, name: bytes) -> Path:
    return home / os.fsdecode(name)


def inside(rig: LocalRig, name: bytes) -> bytes:
    """The path of a file at home as the sandbox sees it."""
    return (b"/home/agent/" if rig.ground.isolates else os.fsencode(rig.ground.home(A)) + b"/") + name


def left(home: Path) -> list[Path]:
    """What writes have left beside their files."""
    return list(home.rglob(".sandbox-write-*"))


async def refused(call: Awaitable[Any]) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return refusal(caught.value)[:2]


async def outcome(call: Awaitable[Any]) -> str:
    try:
        await call
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


@BOTH
@pytest.mark.slow
async def test_files_of_any_name_are_written_read_and_described(filer: Filer, rig: LocalRig, home: Path) -> None:
    content = bytes(range(256)) * 3
    for name in ODD:
        written = await filer.write(name, content[:100], content[100:])
        assert named(home, name).read_bytes() == content
        assert (written.path, written.type, written.size) == (inside(rig, name), pb.FILE_TYPE_FILE, 768)
        assert await filer.read(name) == (written, content)
        assert await filer.stat(inside(rig, name)) == written
        found = named(home, name).stat()
        assert written.modified_at.ToNanoseconds() == found.st_mtime_ns
        assert written.mode == stat.S_IMODE(found.st_mode) == 0o644
    assert sorted(os.fsencode(one.name) for one in home.iterdir()) == sorted(ODD)


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


@BOTH
@pytest.mark.slow
async def test_link_to_what_the_sandbox_does_not_have_leads_nowhere(filer: Filer, rig: LocalRig, home: Path) -> None:
    outside = rig.ground.folder(A).parent.parent.parent / "outside"
    outside.write_text("of the machine")
    (home / "out").symlink_to(outside)
    if rig.ground.isolates:
        assert await refused(filer.read(b"out")) == ("NOT_FOUND", "FILE_NOT_FOUND")
    else:
        assert (await filer.read(b"out"))[1] == b"of the machine"


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
async def test_write_only_if_the_file_is_the_one_that_was_read(filer: Filer, rig: LocalRig, home: Path) -> None:
    changed = ("ABORTED", "FILE_CHANGED")
    assert await refused(filer.write(b"file", b"x", if_match="*")) == changed
    assert not (home / "file").exists()
    first = await filer.write(b"file", b"1")
    second = await filer.write(b"file", b"2", if_match=first.etag)
    assert second.etag != first.etag
    assert await refused(filer.write(b"file", b"3", if_match=first.etag)) == changed
    await filer.write(b"file", b"4", if_match="*")
    assert (home / "file").read_bytes() == b"4"
    await rig.there(lambda: left(home) == [])


@pytest.mark.slow
async def test_repeat_of_a_write_writes_nothing_and_another_payload_is_refused(
    filer: Filer, rig: LocalRig, home: Path
) -> None:
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
    await rig.there(lambda: left(home) == [])


@pytest.mark.parametrize(("bound", "holder"), [("OF_SANDBOX", "sandbox"), ("OF_TENANT", "tenant")])
@pytest.mark.slow
async def test_calls_at_once_are_bounded_at_a_replica(
    rig: LocalRig, home: Path, monkeypatch: pytest.MonkeyPatch, bound: str, holder: str
) -> None:
    assert (asking.OF_SANDBOX, asking.OF_TENANT) == (32, 256)
    monkeypatch.setattr(asking, bound, 2)
    await rig.restart()
    async with filing(rig, A) as filer:
        with (home / "sparse").open("wb") as file:
            file.truncate(1 << 42)
        reads: list[Any] = [filer.reading(b"sparse") for _ in range(2)]
        for one in reads:
            await one.read()
        usage = filer.stub.GetVolumeUsage(pb.GetVolumeUsageRequest(**filer.names_of), timeout=30)
        for call in (
            usage,
            filer.stat(b"sparse"),
            filer.read(b"sparse"),
            filer.write(b"new", b"x"),
            filer.make(b"new"),
        ):
            with pytest.raises(grpc.RpcError, match=f"2 calls about files of the {holder}") as caught:
                await call
            code, reason, facts = refusal(caught.value)
            assert (code, reason, facts["streams"]) == ("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS", "2")
        reads[0].cancel()
        await until_allowed(lambda: filer.stat(b"sparse"))
        reads[1].cancel()
    assert not (home / "new").exists()


async def until_allowed(call: Callable[[], Awaitable[Any]]) -> None:
    """Makes a call until it is no longer refused as one too many."""
    async with asyncio.timeout(30 * PATIENCE):
        while True:
            try:
                await call()
                return
            except grpc.RpcError as error:
                assert refusal(error)[1] == "TOO_MANY_STREAMS"


@BOTH
@pytest.mark.fault(98)
@pytest.mark.slow
async def test_write_that_breaks_off_leaves_the_former_file_and_nothing_beside_it(
    filer: Filer, rig: LocalRig, home: Path
) -> None:
    (home / "file").write_text("former")
    call = filer.stub.WriteFile(timeout=30)
    await call.write(filer.first(b"file", data=bytes(1 << 20)))
    for _ in range(4):
        await call.write(pb.WriteFileRequest(data=bytes(1 << 20)))
    await rig.there(lambda: left(home) and left(home)[0].stat().st_size > 0)
    call.cancel()
    await rig.there(lambda: left(home) == [])
    assert (home / "file").read_text() == "former"
    assert await refused(filer.write(b"file", b"abc", size=4)) == ("INVALID_ARGUMENT", "INVALID_FIELDS")
    await rig.there(lambda: left(home) == [])
    assert (home / "file").read_text() == "former"


@BOTH
@pytest.mark.parametrize("size", [None, 10])
@pytest.mark.slow
async def test_write_whose_caller_sends_nothing_ends_and_leaves_the_former_file(
    rig: LocalRig, home: Path, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    rig.settings["base_pace"] = dataclasses.replace(rig.settings["base_pace"], access_idle=0.2)
    monkeypatch.setattr(asking, "OF_SANDBOX", 1)
    await rig.restart()
    async with filing(rig, A) as filer:
        (home / "file").write_text("former")
        call = filer.stub.WriteFile(timeout=30)
        await call.write(filer.first(b"file", data=b"part", size=size))
        assert await refused(call) == ("DEADLINE_EXCEEDED", "REQUEST_NOT_RECEIVED")
        # It has made room for another call.
        assert (await filer.stat(b"file")).size == len("former")
        await rig.there(lambda: left(home) == [])
    assert (home / "file").read_text() == "former"


@BOTH
@pytest.mark.slow
async def test_read_whose_caller_takes_nothing_ends(rig: LocalRig, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.settings["base_pace"] = dataclasses.replace(rig.settings["base_pace"], access_idle=0.2)
    monkeypatch.setattr(asking, "OF_SANDBOX", 1)
    await rig.restart()
    async with filing(rig, A) as filer:
        # More than all buffers between the two take.
        with (home / "file").open("wb") as file:
            file.truncate(64 << 20)
        began = time.monotonic()
        messages = aiter(filer.reading(b"file"))
        await anext(messages)
        first = await outcome(filer.stat(b"file"))
        # Unless it took so long that the read has ended.
        assert first == "RESOURCE_EXHAUSTED" or time.monotonic() - began > 0.2
        async with asyncio.timeout(10 * PATIENCE):
            while await outcome(filer.stat(b"file")) != "OK":
                await asyncio.sleep(0.05)
        taken = 0
        with pytest.raises(grpc.RpcError) as caught:
            async for one in messages:
                taken += len(one.data)
        assert refusal(caught.value)[:2] == ("DEADLINE_EXCEEDED", "RESPONSE_NOT_TAKEN")
        assert taken < 64 << 20


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


@pytest.mark.slow
async def test_directories_are_made_listed_moved_and_removed(filer: Filer, rig: LocalRig, home: Path) -> None:
    made = await filer.make(b"a/b", parents=True, mode=0o750)
    assert (made.path, made.type, made.mode) == (inside(rig, b"a/b"), pb.FILE_TYPE_DIRECTORY, 0o750)
    for name in ODD:
        await filer.write(b"a/" + name, name)
    assert await filer.names(b"a") == sorted([*ODD, b"b"])
    assert await filer.names(b"a", page_size=2) == sorted([*ODD, b"b"])
    moved = await filer.move(b"a", b"new\n")
    assert moved.path == inside(rig, b"new\n")
    assert await refused(filer.remove(b"new\n")) == ("FAILED_PRECONDITION", "DIRECTORY_NOT_EMPTY")
    await filer.remove(b"new\n", recursive=True)
    assert list(home.iterdir()) == []


@pytest.mark.slow
async def test_usage_is_that_of_the_disk_of_the_sandbox(filer: Filer, home: Path) -> None:
    usage = await filer.stub.GetVolumeUsage(pb.GetVolumeUsageRequest(**filer.names_of), timeout=30)
    disk = os.statvfs(home)
    assert usage.capacity_bytes == disk.f_blocks * disk.f_frsize
    assert abs(usage.used_bytes - (disk.f_blocks - disk.f_bfree) * disk.f_frsize) < 1 << 30
    assert usage.capacity_inodes == disk.f_files
    assert 0 < usage.used_inodes < usage.capacity_inodes
    assert usage.measured_at.ToSeconds() > home.stat().st_mtime - 1
    unknown = filer.stub.GetVolumeUsage(pb.GetVolumeUsageRequest(sandbox_id="unknown"), timeout=30)
    assert await refused(unknown) == ("NOT_FOUND", "SANDBOX_NOT_FOUND")


@pytest.mark.slow
async def test_status_has_the_usage_of_the_disk_where_it_is_asked_for(
    filer: Filer, rig: LocalRig, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def status(timeout: float = 30, **fields: Any) -> sandbox_pb2.GetStatusResponse:
        request = sandbox_pb2.GetStatusRequest(**filer.names_of, **fields)
        answer: sandbox_pb2.GetStatusResponse = await stub.GetStatus(request, timeout=timeout)
        return answer

    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
        stub: Any = sandbox_pb2_grpc.SandboxServiceStub(channel)
        plain = await status()
        assert not plain.status.HasField("usage") and not plain.HasField("usage_missing")
        asked = await status(include_usage=True)
        usage, disk = asked.status.usage, os.statvfs(home)
        assert (usage.capacity_bytes, usage.capacity_inodes) == (disk.f_blocks * disk.f_frsize, disk.f_files)
        assert 0 < usage.used_bytes < usage.capacity_bytes
        assert usage.measured_at.ToSeconds() > home.stat().st_mtime - 1
        assert not asked.HasField("usage_missing")
        asked.status.ClearField("usage")
        assert asked == plain
        # A program in the sandbox that never answers.
        monkeypatch.setattr(file_scripts, "usage", lambda: file_scripts.sent(b"", "exec sleep 1000"))
        silent = await status(timeout=4, include_usage=True)
        assert (silent.usage_missing.reason, silent.status) == ("DEADLINE_EXCEEDED", plain.status)
        await rig.begin(A, Phase.STOPPED)
        stopped = await status(include_usage=True)
        assert stopped.usage_missing.reason == "SANDBOX_NOT_RUNNING"
        assert "start it" in stopped.usage_missing.message
        assert not stopped.status.HasField("usage")


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


@pytest.mark.slow
async def test_one_more_than_a_limit_of_the_capabilities_is_refused(filer: Filer, rig: LocalRig, home: Path) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
        stub: Any = sandbox_pb2_grpc.SandboxServiceStub(channel)
        limits = (await stub.GetCapabilities(sandbox_pb2.GetCapabilitiesRequest(), timeout=30)).access
    assert (limits.file_calls, limits.tenant_file_calls) == (32, 256)
    assert limits.file_page_size == 1000
    path = b"./" * ((limits.path_bytes - 4) // 2) + b"file"
    await filer.write(path, bytes(limits.write_bytes))
    assert (home / "file").stat().st_size == limits.write_bytes
    bad = ("INVALID_ARGUMENT", "INVALID_FIELDS")
    assert await refused(filer.write(path + b"s", b"x")) == bad
    assert await refused(filer.write(b"file", bytes(limits.write_bytes + 1))) == bad
