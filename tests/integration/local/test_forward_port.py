"""ForwardPort on the local engine: the contract, and which ports it may reach."""

import asyncio
import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import grpc
import pytest
from sandbox.v1 import access_pb2 as pb
from sandbox_server.domain.phase import Phase

from tests.contract.ports import *  # noqa: F403 - the tests themselves
from tests.contract.ports import echo
from tests.support.forwarding import Forwarder, Serve, forwarding, serving
from tests.support.local import LocalRig
from tests.support.rig import A
from tests.support.working import refusal


class LocalPlace:
    """The network is the machine's: a test listens on the port of the sandbox itself."""

    carries_ends = True

    def __init__(self, rig: LocalRig, port: int, loopback: int) -> None:
        self.rig = rig
        self.port = port
        self.loopback = loopback

    def listening(self, serve: Serve) -> AbstractAsyncContextManager[object]:
        return serving(serve, self.loopback)


@pytest.fixture(params=["isolated"])
def isolation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def place(rig: LocalRig) -> LocalPlace:
    await rig.create(A, spec=rig.ground.script("exec sleep MARK"))
    sandbox = await rig.settled(A, Phase.RUNNING)
    return LocalPlace(rig, sandbox.spec.ports[0].number, sandbox.addresses.ports[0])


@pytest.mark.fault(84)
async def test_other_ports_of_the_machine_are_refused(place: LocalPlace, forwarder: Forwarder) -> None:
    async def never(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        raise AssertionError("reached")

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    other = server.sockets[0].getsockname()[1]
    for port in (other, place.rig.port, 22, 5432):
        connection = forwarder.connect(port=port)
        await connection.send()
        with pytest.raises(grpc.RpcError) as caught:
            await connection.opened()
        assert refusal(caught.value)[:2] == ("FAILED_PRECONDITION", "PORT_REFUSED")
        assert f"ports of the sandbox are {place.port}, {place.loopback}" in str(caught.value)
    server.close()


async def test_loopback_port_of_the_url_is_reached_as_well(place: LocalPlace, forwarder: Forwarder) -> None:
    async with place.listening(echo):
        connection = forwarder.connect(port=place.loopback)
        await connection.send(b"hi", eof=True)
        await connection.opened()
        assert await connection.rest() == b"hi"


@pytest.mark.slow
async def test_other_tenants_and_operators_that_only_read_reach_neither_ports_nor_logs(
    place: LocalPlace, tmp_path: Path
) -> None:
    tokens = {name: f"token-of-the-{name}-1" for name in ("default", "other", "operator")}
    tenants = [{"name": name, "namespaces": [name], "tokens": [tokens[name]]} for name in ("default", "other")]
    content = {"tenants": tenants, "operators": [{"name": "operator", "tokens": [tokens["operator"]]}]}
    (tmp_path / "tokens").write_text(json.dumps(content))
    place.rig.settings["token_file"] = tmp_path / "tokens"
    await place.rig.restart()
    await place.rig.settled(A, Phase.RUNNING)
    names = {"sandbox_id": A, "namespace": "default"}
    outcomes = {}
    async with place.listening(echo), forwarding(place.rig, place.port) as later:
        for name, token in tokens.items():
            fields: dict[str, Any] = {"timeout": 20, "metadata": (("authorization", f"Bearer {token}"),)}
            request = pb.ForwardPortRequest(**names, port=place.port, eof=True)
            calls = {
                "StreamLogs": later.stub.StreamLogs(pb.StreamLogsRequest(**names), **fields),
                "ForwardPort": later.stub.ForwardPort(iter([request]), **fields),
            }
            for method, call in calls.items():
                try:
                    outcomes[name, method] = str(len([one async for one in call]))
                except grpc.RpcError as error:
                    outcomes[name, method] = refusal(error)[1]
    reasons = {"other": "SANDBOX_NOT_FOUND", "operator": "OPERATOR_READS_ONLY"}
    for name, reason in reasons.items():
        assert {outcomes[name, method] for method in ("StreamLogs", "ForwardPort")} == {reason}
    # Nothing was printed; and a connection is opened and ended.
    assert (outcomes["default", "StreamLogs"], outcomes["default", "ForwardPort"]) == ("0", "2")
