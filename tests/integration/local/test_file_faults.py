"""What a killed service, a network and the user of a sandbox can do to calls about files, and how much memory these take."""

import asyncio
import hashlib
import os
import re
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from sandbox.v1 import access_pb2 as pb

from tests.support.filing import Filer, filing
from tests.support.local import LocalRig
from tests.support.relay import to
from tests.support.service import Service
from tests.support.specs import SLEEP
from tests.support.waiting import PATIENCE
from tests.support.working import refusal

A = "files-a"
OWN = (("grpc.use_local_subchannel_pool", 1),)
"""Channels that wait for nothing that another one has met."""
CUT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
POSITIONS = (0, 30, 100, 300, 10_000, 1_000_000, 2_500_000)
PART = bytes(range(256)) * 4096
GROWS_MOST = 32 << 20


@pytest.fixture
def isolation() -> str:
    return "isolated"


@pytest.fixture
async def filer(rig: LocalRig) -> AsyncIterator[Filer]:
    async with filing(rig, A) as filer:
        yield filer


def begun(service: Service) -> tuple[str, Path]:
    """Starts the service, and a sandbox in it. Returns the id and the home of the sandbox."""
    service.start()
    with service.client() as client:
        made = client.create("demo", spec=SLEEP)
        client.wait_until(made.sandbox_id, "RUNNING", timeout=60 * PATIENCE)
    (folder,) = service.sandboxes()
    return made.sandbox_id, folder / "volume" / "home"


async def started_again(service: Service, sandbox_id: str) -> None:
    def again() -> None:
        service.start()
        with service.client() as client:
            client.wait_until(sandbox_id, "RUNNING", timeout=60 * PATIENCE)

    await asyncio.to_thread(again)


async def until(check: Callable[[], object]) -> None:
    async with asyncio.timeout(20 * PATIENCE):
        while not check():
            await asyncio.sleep(0.02)


def beside(home: Path) -> list[Path]:
    """What writes have beside their files."""
    return list(home.glob(".sandbox-write-*"))


@pytest.mark.slow
@pytest.mark.fault(97)
async def test_service_killed_in_a_write_leaves_the_former_file_and_a_repeat_writes(
    make_service: Callable[..., Service],
) -> None:
    service = make_service()
    sandbox_id, home = await asyncio.to_thread(begun, service)
    size = 16 * len(PART)
    async with grpc.aio.insecure_channel(service.address) as channel:
        filer = Filer(channel, sandbox_id)
        await filer.write(b"file", b"former")
        first = filer.first(b"file", size=size)
        call = filer.stub.WriteFile(timeout=120 * PATIENCE)
        await call.write(first)
        for _ in range(8):
            await call.write(pb.WriteFileRequest(data=PART))
        await until(lambda: any(one.stat().st_size > 0 for one in beside(home)))
        await asyncio.to_thread(service.kill)
        with pytest.raises(grpc.RpcError):
            await call
    # What writes it finds the end of its input.
    await until(lambda: beside(home) == [])
    assert (home / "file").read_bytes() == b"former"
    await started_again(service, sandbox_id)
    async with grpc.aio.insecure_channel(service.address) as channel:
        assert (await Filer(channel, sandbox_id).send(first, *[PART] * 16)).size == size
    assert (home / "file").read_bytes() == PART * 16
    assert beside(home) == []


@pytest.mark.slow
@pytest.mark.fault(97)
async def test_service_killed_before_it_answers_a_write_that_took_effect_does_not_write_again(
    make_service: Callable[..., Service],
) -> None:
    # The first mutation makes the sandbox.
    service = make_service(env={"SANDBOX_FAILPOINTS": "before_answer=kill@2"})
    sandbox_id, home = await asyncio.to_thread(begun, service)
    async with grpc.aio.insecure_channel(service.address) as channel:
        first = Filer(channel, sandbox_id).first(b"file", data=b"content")
        with pytest.raises(grpc.RpcError):
            await Filer(channel, sandbox_id).send(first)
    assert service.process is not None
    await asyncio.to_thread(service.process.wait)
    before = (home / "file").stat()
    assert (home / "file").read_bytes() == b"content"
    await started_again(service, sandbox_id)
    async with grpc.aio.insecure_channel(service.address) as channel:
        assert (await Filer(channel, sandbox_id).send(first)).size == len(b"content")
    after = (home / "file").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    await until(lambda: beside(home) == [])


@pytest.mark.slow
async def test_a_gibibyte_is_written_and_read_in_bounded_memory(make_service: Callable[..., Service]) -> None:
    service = make_service()
    sandbox_id, home = await asyncio.to_thread(begun, service)
    assert service.process is not None
    process = Path(f"/proc/{service.process.pid}")
    async with grpc.aio.insecure_channel(service.address) as channel:
        filer = Filer(channel, sandbox_id)
        assert await _there_and_back(filer, 64) == _digest(64)
        (process / "clear_refs").write_text("5")
        before = _peak(process)
        stopping = asyncio.create_task(_stopped_again_and_again(service.process.pid))
        assert await _there_and_back(filer, 1024) == _digest(1024)
        stopping.cancel()
        assert _peak(process) - before < GROWS_MOST
    (home / "content").unlink()


@pytest.mark.parametrize("answers", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.fault(98)
@pytest.mark.slow
async def test_write_whose_connection_is_cut_leaves_a_whole_file_and_a_repeat_writes(
    filer: Filer, rig: LocalRig, answers: bool
) -> None:
    home = rig.ground.home(A)
    for at in POSITIONS:
        await filer.write(b"file", b"former")
        first = filer.first(b"file", size=3 * len(PART))
        written = None
        with to(rig.port) as relay:
            relay.cut_after(at, answers)
            while written is None:
                async with grpc.aio.insecure_channel(relay.address, options=OWN) as channel:
                    try:
                        written = await Filer(channel, A).send(first, PART, PART, PART)
                    except grpc.RpcError as error:
                        assert error.code() in CUT, error
                assert (home / "file").read_bytes() in (b"former", PART * 3)
        assert written.size == 3 * len(PART)
        assert (home / "file").read_bytes() == PART * 3
    await until(lambda: beside(home) == [])


@pytest.mark.fault(98)
@pytest.mark.slow
async def test_read_whose_connection_is_cut_is_no_whole_file_and_goes_on_at_its_offset(
    filer: Filer, rig: LocalRig
) -> None:
    content = os.urandom(3 << 20)
    (rig.ground.home(A) / "file").write_bytes(content)
    for at in POSITIONS:
        read = b""
        whole = False
        with to(rig.port) as relay:
            relay.cut_after(at, answers=True)
            while not whole:
                async with grpc.aio.insecure_channel(relay.address, options=OWN) as channel:
                    try:
                        async for one in Filer(channel, A).reading(b"file", offset=len(read)):
                            read += one.data
                        whole = True
                    except grpc.RpcError as error:
                        assert error.code() in CUT, error
                assert content.startswith(read)
        assert read == content


@pytest.mark.parametrize("kind", ["fifo", "folder", "link"])
@pytest.mark.fault(100)
async def test_file_that_is_replaced_under_a_read_and_a_write(filer: Filer, rig: LocalRig, kind: str) -> None:
    home = rig.ground.home(A)
    size = 80 << 20
    with (home / "file").open("wb") as file:
        file.truncate(size)
    (home / "other").write_text("other")
    reading: Any = filer.reading(b"file")
    await reading.read()
    writing = filer.stub.WriteFile(timeout=120 * PATIENCE)
    await writing.write(filer.first(b"file", size=2 * len(PART)))
    await writing.write(pb.WriteFileRequest(data=PART))
    await until(lambda: any(one.stat().st_size > 0 for one in beside(home)))
    (home / "file").unlink()
    match kind:
        case "fifo":
            os.mkfifo(home / "file")
        case "folder":
            (home / "file").mkdir()
        case "link":
            (home / "file").symlink_to("other")
    # The read has the file that it has opened.
    read = 0
    while (one := await reading.read()) is not grpc.aio.EOF:
        read += len(one.data)
    assert read == size
    await writing.write(pb.WriteFileRequest(data=PART))
    await writing.done_writing()
    if kind == "link":
        assert (await writing).file.size == 2 * len(PART)
        assert (home / "file").read_bytes() == PART * 2
        assert not (home / "file").is_symlink()
    else:
        with pytest.raises(grpc.RpcError) as caught:
            await writing
        assert refusal(caught.value)[:2] == ("FAILED_PRECONDITION", "NOT_A_FILE")
    assert (home / "other").read_text() == "other"
    await until(lambda: beside(home) == [])


def _peak(process: Path) -> int:
    """The most bytes of memory that a process has had since its peak was cleared."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", (process / "status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def _digest(parts: int) -> str:
    digest = hashlib.sha256()
    for _ in range(parts):
        digest.update(PART)
    return digest.hexdigest()


async def _stopped_again_and_again(pid: int) -> None:
    """Stops a process for moments, as a busy machine does: gRPC takes a peer that answers late for one far away, and would take
    in ever more of a stream ahead of its reader."""
    for _ in range(20):
        await asyncio.sleep(0.2)
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(0.3)
        finally:
            os.kill(pid, signal.SIGCONT)


async def _there_and_back(filer: Filer, parts: int) -> str:
    """Writes a file and reads it. Returns the digest of what was read."""

    async def sent() -> AsyncIterator[pb.WriteFileRequest]:
        yield filer.first(b"content", size=parts * len(PART), request_id=str(uuid.uuid4()))
        for _ in range(parts):
            yield pb.WriteFileRequest(data=PART)

    await filer.stub.WriteFile(sent(), timeout=300 * PATIENCE)
    digest = hashlib.sha256()
    request = pb.ReadFileRequest(**filer.names_of, path=b"content")
    stream: Any = filer.stub.ReadFile(request, timeout=300 * PATIENCE)
    async for one in stream:
        digest.update(one.data)
    return digest.hexdigest()
