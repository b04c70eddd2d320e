"""The local engine behind the real service: many at once, kill -9 at any moment, and what a terminal sees."""

import asyncio
import base64
import json
import random
import socket
import sys
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import grpc
import psutil
import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import sandbox_pb2_grpc
from sandbox_client import AsyncClient

from tests.support import programs
from tests.support.service import Service
from tests.support.waiting import PATIENCE, eventually

PYTHON = f"{sys.base_prefix}/bin/python3"

# Stands for a terminal program: it sends each connection the processes that it can see.
TERMINAL = """
import pathlib, socket, sys
server = socket.create_server(('127.0.0.1', int(sys.argv[1])))
while True:
    caller, _ = server.accept()
    for one in pathlib.Path('/proc').glob('[0-9]*/comm'):
        caller.sendall(one.read_bytes())
    caller.close()
"""


@pytest.fixture
def mark() -> Iterator[str]:
    """A word that marks the sleeps of a test; none of them may be left."""
    made = f"1000.{uuid.uuid4().int % 10**9}"
    yield made
    assert not marked(made)


def marked(mark: str) -> dict[int, str]:
    """The marked sleeps that run: pid and id of the sandbox, as its environment says."""
    found = {}
    for one in psutil.process_iter(["cmdline", "status"]):
        if one.info["cmdline"] == ["sleep", mark] and one.info["status"] != psutil.STATUS_ZOMBIE:
            try:
                found[one.pid] = one.environ()["ID"]
            except (psutil.Error, KeyError):
                continue
    return found


def sleeping(mark: str) -> pb.SandboxSpec:
    return pb.SandboxSpec(command=["sleep", mark])


async def create(client: AsyncClient, mark: str, name: str) -> pb.Sandbox:
    return await client.create("many", sandbox_id=name, spec=sleeping(mark), env={"ID": name})


async def delete_all(client: AsyncClient) -> None:
    for one in [one async for one in client.list()]:
        await client.delete(one.sandbox_id)
    for one in [one async for one in client.list()]:
        await client.wait_until(one.sandbox_id, "TERMINATED", timeout=90 * PATIENCE)


@pytest.mark.slow
async def test_two_hundred_at_once_all_run_and_every_get_status_is_answered(
    make_service: Callable[..., Service], mark: str
) -> None:
    service = make_service().start()
    names = [f"many-{number}" for number in range(200)]
    async with AsyncClient(service.address, timeout=90 * PATIENCE) as client:

        async def run(name: str) -> pb.SandboxStatus:
            made = await create(client, mark, name)
            return await client.wait_until(made.sandbox_id, "RUNNING", timeout=90 * PATIENCE)

        sequence = (await create(client, mark, names[0])).status.sequence
        running = [asyncio.create_task(run(name)) for name in names[1:]]
        # A bare stub: nothing is repeated where the service did not answer.
        async with grpc.aio.insecure_channel(service.address) as channel:
            stub = sandbox_pb2_grpc.SandboxServiceStub(channel)
            while not all(one.done() for one in running):
                answer = await stub.GetStatus(pb.GetStatusRequest(sandbox_id=names[0]))
                assert (answer.status.sandbox_id, answer.status.sequence >= sequence) == (names[0], True)
                sequence = answer.status.sequence
        statuses = [await client.wait_until(names[0], "RUNNING"), *[await one for one in running]]
        assert len({one.public_url for one in statuses}) == 200
        await asyncio.to_thread(eventually, lambda: len(marked(mark)) == 200)
        assert sorted(marked(mark).values()) == sorted(names)
        await delete_all(client)
    assert service.sandboxes() == []


@pytest.mark.slow
async def test_kill_9_and_restart_find_the_same_processes_phases_and_files(
    make_service: Callable[..., Service], mark: str
) -> None:
    service = make_service().start()
    names = [f"kept-{number}" for number in range(5)]
    async with AsyncClient(service.address, timeout=60 * PATIENCE) as client:
        for name in names:
            await create(client, mark, name)
        for name in names:
            await client.wait_until(name, "RUNNING", timeout=30 * PATIENCE)
        stopped = await client.stop(names[-1])
        await client.wait_until(names[-1], "STOPPED", generation=stopped.status.generation, timeout=30 * PATIENCE)
        await asyncio.to_thread(eventually, lambda: len(marked(mark)) == 4)
        for folder in service.sandboxes():
            (folder / "volume" / "home" / "work.txt").write_text(folder.name)
        before, sequence = marked(mark), (await client.page()).sequence
        for _ in range(2):
            service.kill()
            assert marked(mark) == before
            await asyncio.to_thread(service.start)
        # Every sandbox has been looked at again when its environment is known again: when it is applied.
        for name in names[:-1]:
            assert (await client.status(name)).phase == pb.PHASE_RUNNING
        await asyncio.sleep(1)
        assert marked(mark) == before
        for folder in service.sandboxes():
            assert (folder / "volume" / "home" / "work.txt").read_text() == folder.name
        async with grpc.aio.insecure_channel(service.address) as channel:
            stub = sandbox_pb2_grpc.SandboxServiceStub(channel)
            heard = stub.WatchStatus(pb.WatchStatusRequest(after_sequence=sequence), timeout=2)
            phases = {one.status.phase async for one in until_its_time(heard) if one.WhichOneof("event") == "status"}
        assert phases <= {pb.PHASE_RUNNING, pb.PHASE_STOPPED}
        await delete_all(client)


@pytest.mark.slow
async def test_killed_again_and_again_while_sandboxes_start_the_service_never_doubles_one(
    make_service: Callable[..., Service], mark: str
) -> None:
    service = make_service().start()
    choose = random.Random(1)
    names = [f"burst-{number}" for number in range(40)]
    async with AsyncClient(service.address, timeout=90 * PATIENCE) as client:
        # A client that has never met the service does not wait for it as long.
        await client.page()
        creating = [asyncio.create_task(create(client, mark, name)) for name in names]
        for _ in range(6):
            await asyncio.sleep(choose.uniform(0, 0.4))
            service.kill()
            await asyncio.to_thread(service.start)
        await asyncio.gather(*creating)
        for name in names:
            status = await client.wait_until(name, "RUNNING", timeout=60 * PATIENCE)
            assert status.generation == 1
        await asyncio.to_thread(eventually, lambda: len(marked(mark)) >= 40)
        await asyncio.sleep(0.5)
        assert sorted(marked(mark).values()) == sorted(names)
        await delete_all(client)
    assert service.sandboxes() == []


async def until_its_time(heard: grpc.aio.UnaryStreamCall) -> AsyncIterator[pb.WatchStatusResponse]:
    try:
        async for one in heard:
            yield one
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.slow
def test_the_terminal_runs_in_its_sandbox_and_again_when_it_ended(make_service: Callable[..., Service]) -> None:
    # One word, as a setting has no quotes.
    word = f"exec(__import__('base64').b64decode('{base64.b64encode(TERMINAL.encode()).decode()}'))"
    service = make_service("--local-terminal", f"{PYTHON} -c {word} {{port}}").start()

    def seen(port: int) -> list[str]:
        """Returns the names of the processes that the terminal can see; none if it does not answer."""
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as terminal:
                return terminal.makefile().read().split()
        except OSError:
            return []

    with service.client() as client:
        made = client.create("demo", spec=pb.SandboxSpec(command=["/bin/sleep", "1000"]))
        client.wait_until(made.sandbox_id, "RUNNING", timeout=20 * PATIENCE)
        port = int(made.ttyd_url.rpartition(":")[2])
        eventually(lambda: {"sleep", "python3"} <= set(seen(port)))
        line = [PYTHON, "-c", word, str(port)]
        (server,) = [one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == line]
        server.kill()
        server.wait(10)
        eventually(lambda: "sleep" in seen(port))
        assert client.status(made.sandbox_id).restart_count == 0
        client.delete(made.sandbox_id)
        client.wait_until(made.sandbox_id, "TERMINATED", timeout=20 * PATIENCE)
        assert seen(port) == []


@pytest.mark.slow
def test_the_default_command_serves_the_home_on_loopback_alone(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with service.client() as client:
        made = client.create("demo")
        client.wait_until(made.sandbox_id, "RUNNING", timeout=20 * PATIENCE)
        (folder,) = service.sandboxes()
        (folder / "volume" / "home" / "work.txt").write_text("mine")

        def served() -> bool:
            try:
                with direct.open(f"{made.public_url}/work.txt", timeout=5) as answer:
                    return bool(answer.read() == b"mine")
            except OSError:
                return False

        eventually(served)
        port = int(made.public_url.rpartition(":")[2])
        listening = [one for one in psutil.net_connections("tcp") if one.laddr and one.laddr.port == port]
        assert {one.laddr.ip for one in listening} == {"127.0.0.1"}
        client.delete(made.sandbox_id)
        client.wait_until(made.sandbox_id, "TERMINATED", timeout=20 * PATIENCE)


@pytest.mark.slow
def test_isolation_is_reported_by_the_log_and_by_config(make_service: Callable[..., Service]) -> None:
    for setting, told in (("auto", "bubblewrap at /"), ("none", "none: switched off")):
        shown = json.loads(programs.run("sandbox-server", "config", "--local-isolation", setting).stdout)
        assert shown["isolation"].startswith(told)
        service = make_service("--local-isolation", setting, "--log-format", "json").start()
        lines = [json.loads(line) for line in service.log.read_text().splitlines()]
        assert [one["state"] for one in lines if one["event"] == "isolation"] == [shown["isolation"]]


@pytest.mark.slow
def test_inside_a_cluster_the_local_engine_refuses_to_start(make_service: Callable[..., Service]) -> None:
    service = make_service(env={"KUBERNETES_SERVICE_HOST": "10.0.0.1"}).start(wait=False)
    assert service.process is not None
    assert service.process.wait(20 * PATIENCE) != 0
    assert "does not run inside a cluster" in service.log.read_text()
