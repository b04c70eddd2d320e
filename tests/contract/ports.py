"""The contract of ForwardPort. Each engine runs these tests against its own ground, through the fixture `place`."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from sandbox_server.access import ports
from sandbox_server.domain.phase import Phase

from tests.support.forwarding import Forwarder, Place, forwarding
from tests.support.rig import A
from tests.support.waiting import PATIENCE
from tests.support.working import refusal

MIB = 1 << 20
ON_THE_WAY = 100 * MIB
"""Every socket in between holds some: on a real control plane up to five connections, with 10 MiB each."""


@pytest.fixture
async def forwarder(place: Place) -> AsyncIterator[Forwarder]:
    async with forwarding(place.rig, place.port) as made:
        yield made


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(15 * PATIENCE):
        while not holds():
            await asyncio.sleep(0.01)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_bytes_go_both_ways_and_the_first_answer_is_empty(place: Place, forwarder: Forwarder) -> None:
    async with place.listening(echo):
        connection = forwarder.connect()
        await connection.send()
        await connection.opened()
        for data in (b"one", bytes(range(256)), b"x" * 200_000):
            await connection.send(data)
            assert await connection.exactly(len(data)) == data
        await connection.send(eof=True)
        assert await connection.rest() == b""
        assert await connection.receive() is None


async def test_caller_that_does_not_wait_loses_nothing(place: Place, forwarder: Forwarder) -> None:
    async with place.listening(echo):
        connection = forwarder.connect()
        await connection.send(b"at once", eof=True)
        await connection.done()
        await connection.opened()
        assert await connection.rest() == b"at once"
        assert await connection.receive() is None


@pytest.mark.parametrize("by_requests", [False, True])
async def test_end_of_the_caller_reaches_the_server_which_then_answers(
    place: Place, forwarder: Forwarder, by_requests: bool
) -> None:
    if not place.carries_ends:
        pytest.skip("the runtime hands on no end")

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = len(await reader.read())
        await asyncio.sleep(0.2)
        writer.write(b"%d bytes" % size)
        writer.close()

    async with place.listening(count):
        connection = forwarder.connect()
        await connection.send(b"x" * 100_000)
        if by_requests:
            await connection.done()
        else:
            await connection.send(eof=True)
        await connection.opened()
        assert await connection.rest() == b"100000 bytes"
        assert await connection.receive() is None


@pytest.mark.fault(84)
async def test_nothing_that_listens_is_said(place: Place, forwarder: Forwarder) -> None:
    connection = forwarder.connect()
    await connection.send(b"for nobody")
    with pytest.raises(grpc.RpcError) as caught:
        await connection.rest()
    assert refusal(caught.value)[:2] == ("FAILED_PRECONDITION", "PORT_REFUSED")


async def test_large_transfers_arrive_whole_in_both_directions_at_once(place: Place, forwarder: Forwarder) -> None:
    sent = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(8 * MIB // 32))
    took = hashlib.sha256()

    async def swap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def take() -> None:
            while data := await reader.read(MIB):
                took.update(data)

        async def give() -> None:
            for begin in range(0, len(sent), MIB):
                writer.write(sent[begin : begin + MIB])
                await writer.drain()

        await asyncio.gather(take(), give())
        writer.close()

    async with place.listening(swap):
        connection = forwarder.connect()

        async def give() -> None:
            for begin in range(0, len(sent), MIB):
                await connection.send(sent[begin : begin + MIB])
            await connection.send(eof=True)

        giving = asyncio.create_task(give())
        assert await connection.rest() == sent
        await giving
    assert took.digest() == hashlib.sha256(sent).digest()


@pytest.mark.fault(83)
async def test_reader_that_is_slow_holds_the_other_side_up(place: Place, forwarder: Forwarder) -> None:
    """On both sides: what is on the way is bounded."""
    written = 0

    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    async with place.listening(pour):
        connection = forwarder.connect()
        await connection.send()
        await connection.opened()
        before: int | None = None
        # Until the sockets in between are full, as fast as the machine is.
        async with asyncio.timeout(15 * PATIENCE):
            while before is None or written - before >= MIB:
                before = written
                await asyncio.sleep(1)
                assert written < ON_THE_WAY
        connection.cancel()

    async def never(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async with place.listening(never):
        connection = forwarder.connect()
        await connection.send()
        await connection.opened()
        sent = 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                while sent < 2 * ON_THE_WAY:
                    await connection.send(b"x" * 65536)
                    sent += 65536
        assert sent < ON_THE_WAY
        connection.cancel()


async def test_caller_that_goes_away_closes_the_connection(place: Place, forwarder: Forwarder) -> None:
    closed = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()
        closed.set()

    async with place.listening(wait):
        connection = forwarder.connect()
        await connection.send()
        await connection.opened()
        connection.cancel()
        await until(closed.is_set)


@pytest.mark.fault(82)
async def test_stop_of_the_sandbox_ends_the_stream(place: Place, forwarder: Forwarder) -> None:
    async with place.listening(echo):
        connection = forwarder.connect()
        await connection.send(b"hi")
        await connection.opened()
        assert await connection.exactly(2) == b"hi"
        await place.rig.begin(A, Phase.STOPPED)
        with pytest.raises(grpc.RpcError) as caught:
            await connection.rest()
        assert refusal(caught.value)[:2] == ("UNAVAILABLE", "SANDBOX_NOT_REACHED")
    await place.rig.settled(A, Phase.STOPPED)
    connection = forwarder.connect()
    await connection.send()
    with pytest.raises(grpc.RpcError) as caught:
        await connection.opened()
    code, reason, facts = refusal(caught.value)
    assert (code, reason, facts["phase"]) == ("FAILED_PRECONDITION", "SANDBOX_NOT_RUNNING", "STOPPED")


async def test_bad_fields_and_unknown_sandboxes_are_refused_to_connect(place: Place, forwarder: Forwarder) -> None:
    for names, expected in (
        ({"port": 0}, ("INVALID_ARGUMENT", "INVALID_FIELDS")),
        ({"port": 65536}, ("INVALID_ARGUMENT", "INVALID_FIELDS")),
        ({"sandbox_id": "unknown"}, ("NOT_FOUND", "SANDBOX_NOT_FOUND")),
        ({"namespace": "of-another"}, ("NOT_FOUND", "SANDBOX_NOT_FOUND")),
    ):
        connection = forwarder.connect(**names)
        await connection.send(b"data")
        with pytest.raises(grpc.RpcError) as caught:
            await connection.opened()
        assert refusal(caught.value)[:2] == expected
    async with place.listening(echo):
        connection = forwarder.connect()
        await connection.send(b"x" * (MIB + 1))
        with pytest.raises(grpc.RpcError) as caught:
            await connection.rest()
        assert refusal(caught.value)[:2] == ("INVALID_ARGUMENT", "INVALID_FIELDS")


async def test_many_connections_at_once_and_no_more_than_allowed(place: Place, forwarder: Forwarder) -> None:
    assert (ports.OF_SANDBOX, ports.OF_TENANT) == (64, 512)
    async with place.listening(echo):

        async def one(number: int) -> None:
            connection = forwarder.connect()
            await connection.send(b"%d" % number, eof=True)
            await connection.opened()
            assert await connection.rest() == b"%d" % number
            await connection.done()

        await asyncio.gather(*(one(number) for number in range(20)))
        held = [forwarder.connect() for _ in range(ports.OF_SANDBOX)]
        await asyncio.gather(*(connection.send() for connection in held))
        await asyncio.gather(*(connection.opened() for connection in held))
        another = forwarder.connect()
        await another.send()
        with pytest.raises(grpc.RpcError) as caught:
            await another.opened()
        code, reason, facts = refusal(caught.value)
        assert (code, reason, facts["streams"]) == ("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS", "64")
        for connection in held:
            connection.cancel()
