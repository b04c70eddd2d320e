"""Files of running sandboxes, through a real gRPC client, with and without isolation."""

import asyncio
import dataclasses
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from sandbox.v1 import access_pb2 as pb
from sandbox.v1 import sandbox_pb2, sandbox_pb2_grpc
from sandbox_server.access import asking, file_scripts
from sandbox_server.domain.phase import Phase

from tests.contract.files import *  # noqa: F403 - the tests themselves
from tests.contract.files import A, any_name, directories, left, refused
from tests.support.filing import Filer, filing
from tests.support.local import BOTH, LocalRig
from tests.support.waiting import PATIENCE
from tests.support.working import refusal

PLAIN = pytest.mark.parametrize("isolation", ["plain"])


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


@pytest.fixture
def inside(rig: LocalRig) -> bytes:
    return b"/home/agent/" if rig.ground.isolates else os.fsencode(rig.ground.home(A)) + b"/"


async def outcome(call: Awaitable[Any]) -> str:
    try:
        await call
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


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


@PLAIN
@pytest.mark.slow
async def test_files_of_any_name_without_isolation(filer: Filer, inside: bytes, home: Path) -> None:
    await any_name(filer, inside, home)


@PLAIN
@pytest.mark.slow
async def test_directories_without_isolation(filer: Filer, inside: bytes, home: Path) -> None:
    await directories(filer, inside, home)
