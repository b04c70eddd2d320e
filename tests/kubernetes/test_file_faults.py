"""A service that is killed in a write to a file, on the path that the content takes in a cluster."""

import asyncio
import uuid

import grpc
import pytest
from sandbox.v1 import access_pb2 as pb

from tests.kubernetes.ground import KubernetesGround, grant_access
from tests.support.filing import Filer
from tests.support.service import Service
from tests.support.waiting import PATIENCE
from tests.support.working import Worker

pytestmark = pytest.mark.processes

A = "files-a"
PART = bytes(range(256)) * 4096
PARTS = 16


async def until_nothing_is_beside(worker: Worker) -> None:
    """Returns once no write has anything beside its file."""
    async with asyncio.timeout(60 * PATIENCE):
        while (await worker.run("ls -A | grep -c '^.sandbox-write-'")).out != b"0\n":
            await asyncio.sleep(0.1)


def run(service: Service) -> None:
    with service.client() as client:
        client.create("demo", sandbox_id=A)
        client.wait_until(A, "RUNNING", timeout=60 * PATIENCE)


@pytest.mark.fault(97)
async def test_97_service_killed_in_a_write_leaves_the_former_file_and_a_repeat_writes(
    service: Service, ground: KubernetesGround
) -> None:
    await asyncio.to_thread(grant_access, ground.cluster, ground.namespace)
    await asyncio.to_thread(run, service)
    async with grpc.aio.insecure_channel(service.address) as channel:
        filer = Filer(channel, A)
        await filer.send(filer.first(b"file", data=b"former"))
        first = filer.first(b"file", size=PARTS * len(PART), request_id=str(uuid.uuid4()))
        call = filer.stub.WriteFile(timeout=120 * PATIENCE)
        await call.write(first)
        for _ in range(PARTS // 2):
            await call.write(pb.WriteFileRequest(data=PART))
        async with asyncio.timeout(60 * PATIENCE):
            while (await Worker(channel, A).run("cat .sandbox-write-* | head -c 1")).out == b"":
                await asyncio.sleep(0.1)
        await asyncio.to_thread(service.kill)
        with pytest.raises(grpc.RpcError):
            await call
    await asyncio.to_thread(service.start)
    async with grpc.aio.insecure_channel(service.address) as channel:
        filer = Filer(channel, A)
        # What writes it finds the end of its input.
        await until_nothing_is_beside(Worker(channel, A))
        assert (await filer.read(b"file"))[1] == b"former"
        assert (await filer.send(first, *[PART] * PARTS)).size == PARTS * len(PART)
        assert (await filer.read(b"file"))[1] == PART * PARTS
        await until_nothing_is_beside(Worker(channel, A))
