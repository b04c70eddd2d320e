"""Execs outlive the service: kill -9 during their output, and a repeat of a start whose answer was lost."""

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from sandbox.v1 import access_pb2 as pb

from tests.support.service import Service
from tests.support.specs import SLEEP
from tests.support.waiting import PATIENCE
from tests.support.working import Printed, Worker

pytestmark = pytest.mark.slow

SCRIPT = """
echo ran >>runs-$NAME
i=0
until test -e enough; do echo $NAME $i; i=$((i+1)); sleep 0.02; done
echo $i >>runs-$NAME
"""


async def until_cut(worker: Worker, started: pb.Exec, printed: Printed) -> None:
    """Follows until the exec ends or the stream is cut."""
    try:
        await worker.follow(started, printed)
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN), error


async def test_execs_go_on_through_a_kill_and_every_line_arrives_once_and_in_order(
    make_service: Callable[..., Service],
) -> None:
    service = make_service().start()
    with service.client() as client:
        made = client.create("demo", spec=SLEEP)
        client.wait_until(made.sandbox_id, "RUNNING", timeout=60 * PATIENCE)
    (folder,) = service.sandboxes()
    names = [f"exec-{number}" for number in range(5)]
    ids = {name: str(uuid.uuid4()) for name in names}
    printed = {name: Printed() for name in names}

    async def start(worker: Worker, name: str) -> pb.Exec:
        return await worker.shell(SCRIPT, request_id=ids[name], env={"NAME": name})

    async with grpc.aio.insecure_channel(service.address) as channel:
        worker = Worker(channel, made.sandbox_id)
        started = {name: await start(worker, name) for name in names}
        following = [asyncio.create_task(until_cut(worker, started[name], printed[name])) for name in names]
        while not all(one.out.count(b"\n") > 3 for one in printed.values()):
            await asyncio.sleep(0.01)
        await asyncio.to_thread(service.kill)
        await asyncio.gather(*following)
    assert all(one.exited is None for one in printed.values())
    await asyncio.to_thread(service.start)
    with service.client() as client:
        client.wait_until(made.sandbox_id, "RUNNING", timeout=60 * PATIENCE)
    async with grpc.aio.insecure_channel(service.address) as channel:
        worker = Worker(channel, made.sandbox_id)
        for name in names:
            # As a caller does whose answer was lost.
            assert (await start(worker, name)).exec_id == started[name].exec_id
        before = {name: one.out for name, one in printed.items()}
        following = [asyncio.create_task(worker.follow(started[name], printed[name])) for name in names]
        while any(one.out == before[name] for name, one in printed.items()):
            await asyncio.sleep(0.01)
        home = Path(folder, "volume", "home")
        (home / "enough").touch()
        await asyncio.gather(*following)
    for name, one in printed.items():
        assert one.gaps == []
        ran, count = (home / f"runs-{name}").read_text().splitlines()
        assert ran == "ran"
        assert one.out.decode().splitlines() == [f"{name} {number}" for number in range(int(count))]
        assert one.exited == pb.ExecExited(code=0, reason=pb.EXEC_EXIT_REASON_EXIT)
