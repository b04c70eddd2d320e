"""ForwardPort on the Kubernetes engine: the contract, and what depends on the API server, the kubelet and its runtime."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from sandbox_server.domain.phase import Phase

from tests.contract.ports import *  # noqa: F403 - the tests themselves
from tests.contract.ports import echo
from tests.support.forwarding import Forwarder, Serve, serving
from tests.support.rig import A, Rig
from tests.support.scripted_api import ScriptedApi
from tests.support.working import refusal

PORT = 8000


class ScriptedPlace:
    port = PORT
    carries_ends = True

    def __init__(self, rig: Rig, api: ScriptedApi) -> None:
        self.rig = rig
        self.api = api

    @asynccontextmanager
    async def listening(self, serve: Serve) -> AsyncIterator[None]:
        async with serving(serve, 0) as port:
            self.api.ports.loopback[PORT] = port
            yield
            del self.api.ports.loopback[PORT]


@pytest.fixture
async def place(rig: Rig, api: ScriptedApi) -> ScriptedPlace:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    return ScriptedPlace(rig, api)


@pytest.mark.parametrize("split", [1, 7, 100])
@pytest.mark.slow
async def test_frames_arrive_in_any_parts(place: ScriptedPlace, forwarder: Forwarder, split: int) -> None:
    place.api.ports.split = split
    place.api.ports.pings = 3
    async with place.listening(echo):
        connection = forwarder.connect()
        await connection.send(bytes(range(256)) * 8, eof=True)
        await connection.opened()
        assert await connection.rest() == bytes(range(256)) * 8
    assert place.api.ports.pongs == 3


@pytest.mark.slow
async def test_runtime_that_hands_on_no_end_closes_both_sides(place: ScriptedPlace, forwarder: Forwarder) -> None:
    place.api.ports.as_containerd = True
    async with place.listening(echo):
        connection = forwarder.connect()
        await connection.send(b"all", eof=True)
        await connection.opened()
        assert await connection.rest() == b"all"
        assert await connection.receive() is None


@pytest.mark.slow
async def test_refusal_that_comes_late_is_said_as_well(place: ScriptedPlace, forwarder: Forwarder) -> None:
    answer = place.api.ports.answer

    async def late(request: object) -> object:
        await asyncio.sleep(0.2)
        return await answer(request)  # type: ignore[arg-type]

    place.api.ports.answer = late  # type: ignore[method-assign, assignment]
    connection = forwarder.connect()
    await connection.send(b"for nobody")
    with pytest.raises(grpc.RpcError) as caught:
        await connection.rest()
    assert refusal(caught.value)[:2] == ("FAILED_PRECONDITION", "PORT_REFUSED")


@pytest.mark.parametrize("port", [PORT, 1])
@pytest.mark.slow
async def test_refusal_after_the_end_of_the_data_is_said_as_well(
    place: ScriptedPlace, forwarder: Forwarder, port: int
) -> None:
    place.api.ports.ends_first = True
    async with place.listening(echo):
        connection = forwarder.connect(port=port)
        await connection.send(b"some", eof=True)
        if port == PORT:
            await connection.opened()
            assert await connection.rest() == b"some"
            assert await connection.receive() is None
        else:
            with pytest.raises(grpc.RpcError) as caught:
                await connection.rest()
            assert refusal(caught.value)[:2] == ("FAILED_PRECONDITION", "PORT_REFUSED")


@pytest.mark.slow
async def test_cut_connection_is_unavailable(place: ScriptedPlace, forwarder: Forwarder) -> None:
    async with place.listening(echo):
        connection = forwarder.connect()
        await connection.send(b"hi")
        await connection.opened()
        assert await connection.exactly(2) == b"hi"
        await place.api.ports.sockets[0].close()
        with pytest.raises(grpc.RpcError) as caught:
            await connection.rest()
    assert refusal(caught.value)[:2] == ("UNAVAILABLE", "SANDBOX_NOT_REACHED")


@pytest.mark.fault(82)
@pytest.mark.slow
async def test_restart_of_the_container_ends_the_stream(place: ScriptedPlace, forwarder: Forwarder) -> None:
    async with place.listening(echo):
        connection = forwarder.connect()
        await connection.send(b"hi")
        await connection.opened()
        assert await connection.exactly(2) == b"hi"
        place.api.restart_container("default", f"{A}-0")
        with pytest.raises(grpc.RpcError) as caught:
            await connection.rest()
    assert refusal(caught.value)[:2] == ("UNAVAILABLE", "SANDBOX_NOT_REACHED")


@pytest.mark.slow
async def test_api_server_without_the_tunnel_is_unsupported(place: ScriptedPlace, forwarder: Forwarder) -> None:
    place.api.ports.tunnels = False
    connection = forwarder.connect()
    await connection.send()
    with pytest.raises(grpc.RpcError) as caught:
        await connection.opened()
    assert refusal(caught.value)[:2] == ("FAILED_PRECONDITION", "EXEC_UNSUPPORTED")
    assert "1.31" in str(caught.value)


@pytest.mark.slow
async def test_service_that_may_not_forward_says_so(place: ScriptedPlace, forwarder: Forwarder) -> None:
    place.api.access = False
    connection = forwarder.connect()
    await connection.send()
    with pytest.raises(grpc.RpcError) as caught:
        await connection.opened()
    assert refusal(caught.value)[:2] == ("FAILED_PRECONDITION", "ACCESS_NOT_GRANTED")
