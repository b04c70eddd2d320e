"""A server that stops: which calls it waits for, on streams in both directions."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, wrappers_pb2
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.tenant import Tenant
from sandbox_server.rpc import calls, server
from sandbox_server.rpc.receive import Stream

from tests.support import bare
from tests.support.waiting import PATIENCE

METHODS = {
    # The name, and whether the client and the server stream.
    "Upload": (True, False),
    "Download": (False, True),
    "Talk": (True, True),
    "Watch": (False, True),
}


def described() -> Any:
    """Returns the descriptor of a service with a method of each kind."""
    file = descriptor_pb2.FileDescriptorProto(name="tests/drain.proto", package="tests", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    service = file.service.add(name="Streams")
    value = ".google.protobuf.StringValue"
    for name, (client, serving) in METHODS.items():
        service.method.add(
            name=name, input_type=value, output_type=value, client_streaming=client, server_streaming=serving
        )
    pool = descriptor_pool.Default()
    pool.Add(file)
    return pool.FindServiceByName("tests.Streams")


class Streams:
    """Each method ends when the client or the test says so; `Watch` never does."""

    described = described()
    endless = frozenset({"Watch"})

    def __init__(self) -> None:
        self.enough = asyncio.Event()
        self.uploading = asyncio.Event()

    async def Upload(self, _tenant: Tenant, messages: Stream[Any], _caller: Any) -> dict[str, Any]:  # noqa: N802
        values = [messages.first.value]
        self.uploading.set()
        async for one in messages.rest():
            values.append(one.value)
        return {"value": "".join(values)}

    async def Download(self, _tenant: Tenant, message: Any, caller: Any) -> None:  # noqa: N802
        await caller.write(message.SerializeToString())
        await self.enough.wait()
        await caller.write(message.SerializeToString())

    async def Talk(self, _tenant: Tenant, messages: Stream[Any], caller: Any) -> None:  # noqa: N802
        await caller.write(messages.first.SerializeToString())
        async for one in messages.rest():
            await caller.write(one.SerializeToString())

    async def Watch(self, _tenant: Tenant, message: Any, caller: Any) -> None:  # noqa: N802
        await caller.write(message.SerializeToString())
        await asyncio.Event().wait()


def written(text: str) -> bytes:
    return wrappers_pb2.StringValue(value=text).SerializeToString()


@contextlib.asynccontextmanager
async def served(within: float = Pace.message_within) -> AsyncIterator[tuple[Streams, server.Server, grpc.aio.Channel]]:
    streams = Streams()
    async with bare.served(servicer=streams, within=within) as (serving, channel):
        yield streams, serving, channel


async def begun(streams: Streams, channel: grpc.aio.Channel, method: str) -> Any:
    """Returns a call whose first message the method has."""
    call = channel.stream_stream(f"/tests.Streams/{method}")()
    await call.write(written("a"))
    if method == "Upload":
        await streams.uploading.wait()
    else:
        assert await call.read() == written("a")
    return call


async def test_client_stream_has_every_message_in_order() -> None:
    async with served() as (streams, serving, channel):
        upload = await begun(streams, channel, "Upload")
        for text in "bcd":
            await upload.write(written(text))
        await upload.done_writing()
        assert await upload.read() == written("abcd")
        talk = await begun(streams, channel, "Talk")
        for text in "bcd":
            await talk.write(written(text))
            assert await talk.read() == written(text)
        await talk.done_writing()
        assert await talk.read() is grpc.aio.EOF
        assert serving.calls.ended == {("Upload", "OK", ""): 1, ("Talk", "OK", ""): 1}


async def test_malformed_message_of_a_client_stream_is_refused() -> None:
    async with served() as (streams, serving, channel):
        for method in ("Upload", "Talk"):
            call = await begun(streams, channel, method)
            await call.write(b"\xff")
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert {one[1] for one in serving.calls.ended} == {"INVALID_ARGUMENT"}


async def test_client_stream_may_be_silent_between_messages() -> None:
    async with served(0.1) as (streams, _, channel):
        talk = None
        while talk is None:
            # On a busy machine its first message may be late as well.
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                talk = await begun(streams, channel, "Talk")
        await asyncio.sleep(0.5)
        await talk.write(written("b"))
        assert await talk.read() == written("b")


@pytest.mark.parametrize("method", ["Upload", "Download", "Talk"])
async def test_stop_waits_for_a_stream_that_has_an_end(method: str) -> None:
    async with served() as (streams, serving, channel):
        call = await begun(streams, channel, method)
        stopping = asyncio.create_task(serving.stop(30))
        await asyncio.sleep(0.3)
        assert not stopping.done()
        # A new call is refused while the open one goes on.
        refused = channel.unary_stream("/tests.Streams/Download")(written("a"))
        assert await refused.code() is grpc.StatusCode.UNAVAILABLE
        streams.enough.set()
        if METHODS[method][0]:
            await call.write(written("b"))
            await call.done_writing()
        assert await call.read() == (
            written("ab") if method == "Upload" else written("b" if METHODS[method][0] else "a")
        )
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        await asyncio.wait_for(stopping, 5 * PATIENCE)


async def test_stop_does_not_wait_for_a_watch() -> None:
    async with served() as (streams, serving, channel):
        watch = await begun(streams, channel, "Watch")
        await asyncio.wait_for(serving.stop(30), 5 * PATIENCE)
        assert await watch.code() is grpc.StatusCode.UNAVAILABLE


async def test_stop_ends_a_stream_when_its_grace_is_over() -> None:
    async with served() as (streams, serving, channel):
        upload = await begun(streams, channel, "Upload")
        await asyncio.wait_for(serving.stop(0.3), 5 * PATIENCE)
        assert await upload.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("form", ["127.0.0.1:0", "[::1]:0", "unix:{}", "unix://{}", "unix:relative"])
@pytest.mark.slow
async def test_calls_that_a_server_ends_are_to_be_tried_again_wherever_it_listens(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # gRPC itself ends calls that have just arrived with CANCELLED, which no client tries again.
    monkeypatch.chdir(tmp_path)
    ended: set[grpc.StatusCode] = set()
    for _ in range(3):
        serving = server.Server((Streams(),), calls.Calls(bare.ANYONE, Pace(last_calls=0.05)))
        listen = form.format(tmp_path / "socket")
        port = await serving.start(listen, None)
        with ThreadPoolExecutor() as callers:
            stopped = threading.Event()
            address = listen.replace(":0", f":{port}")
            flood = [asyncio.wrap_future(callers.submit(called_until, stopped, address)) for _ in range(8)]
            await asyncio.sleep(0.3)
            await serving.stop(1)
            stopped.set()
            ended.update(*await asyncio.gather(*flood))
    assert ended == {grpc.StatusCode.UNAVAILABLE}


def called_until(stopped: threading.Event, address: str) -> set[grpc.StatusCode]:
    """Calls again and again, and returns how the calls ended that failed."""
    ended: set[grpc.StatusCode] = set()
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
    with grpc.insecure_channel(address, options) as channel:
        call = channel.stream_unary("/tests.Streams/Upload")
        while not stopped.is_set():
            try:
                call(iter([written("a")]), timeout=20 * PATIENCE)
            except grpc.RpcError as error:
                ended.add(error.code())
    return ended
