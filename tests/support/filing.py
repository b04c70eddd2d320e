"""A client of the files of SandboxAccess, for a sandbox that runs on the local engine."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from sandbox.v1 import access_pb2 as pb
from sandbox.v1 import access_pb2_grpc
from sandbox_server.domain.phase import Phase

from tests.support.local import LocalRig
from tests.support.working import WITHIN


class Filer:
    """Works with the files of the sandbox `sandbox_id`."""

    def __init__(self, channel: grpc.aio.Channel, sandbox_id: str) -> None:
        self.stub: Any = access_pb2_grpc.SandboxAccessStub(channel)
        self.names_of = {"sandbox_id": sandbox_id}

    async def reached(self) -> "Filer":
        """Returns when programs can be run in the sandbox: on a busy machine that is a moment after it runs."""
        async with asyncio.timeout(WITHIN):
            while True:
                try:
                    await self.stat(b".")
                    return self
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.UNAVAILABLE:
                        raise
                    await asyncio.sleep(0.05)

    async def stat(self, path: bytes, follow: bool = False) -> pb.FileInfo:
        request = pb.StatFileRequest(**self.names_of, path=path, follow_link=follow)
        return (await self.stub.StatFile(request, timeout=WITHIN)).file

    def reading(self, path: bytes, **fields: Any) -> AsyncIterator[pb.ReadFileResponse]:
        return self.stub.ReadFile(pb.ReadFileRequest(**self.names_of, path=path, **fields), timeout=WITHIN)

    async def read(self, path: bytes, **fields: Any) -> tuple[pb.FileInfo, bytes]:
        messages = [one async for one in self.reading(path, **fields)]
        assert all(one.WhichOneof("event") == "data" for one in messages[1:])
        return messages[0].file, b"".join(one.data for one in messages[1:])

    def first(self, path: bytes, **fields: Any) -> pb.WriteFileRequest:
        """The first message of a write."""
        fields.setdefault("request_id", str(uuid.uuid4()))
        return pb.WriteFileRequest(**self.names_of, path=path, **fields)

    async def send(self, first: pb.WriteFileRequest, *parts: bytes) -> pb.FileInfo:
        def requests() -> Iterable[pb.WriteFileRequest]:
            yield first
            for one in parts:
                yield pb.WriteFileRequest(data=one)

        return (await self.stub.WriteFile(requests(), timeout=WITHIN)).file

    async def names(self, path: bytes, page_size: int = 0) -> list[bytes]:
        """The names in a directory, page by page."""
        found: list[bytes] = []
        token = ""
        for _ in range(100):
            request = pb.ListFilesRequest(**self.names_of, path=path, page_size=page_size, page_token=token)
            answer = await self.stub.ListFiles(request, timeout=WITHIN)
            found += [one.path.rsplit(b"/", 1)[1] for one in answer.files]
            token = answer.next_page_token
            if not token:
                return found
        raise AssertionError("the list has no end")

    async def make(self, path: bytes, **fields: Any) -> pb.FileInfo:
        request = pb.MakeDirectoryRequest(**self.names_of, path=path, **fields)
        return (await self.stub.MakeDirectory(request, timeout=WITHIN)).file

    async def remove(self, path: bytes, **fields: Any) -> None:
        await self.stub.RemoveFile(pb.RemoveFileRequest(**self.names_of, path=path, **fields), timeout=WITHIN)

    async def move(self, path: bytes, to: bytes, **fields: Any) -> pb.FileInfo:
        request = pb.MoveFileRequest(**self.names_of, path=path, to=to, **fields)
        return (await self.stub.MoveFile(request, timeout=WITHIN)).file

    async def write(self, path: bytes, *parts: bytes, **fields: Any) -> pb.FileInfo:
        return await self.send(self.first(path, **fields), *parts)


@contextlib.asynccontextmanager
async def filing(rig: LocalRig, sandbox_id: str) -> AsyncIterator[Filer]:
    """Makes a sandbox, and yields a client of its files once it runs."""
    await rig.create(sandbox_id, spec=rig.ground.script("exec sleep MARK"))
    await rig.settled(sandbox_id, Phase.RUNNING)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
        yield await Filer(channel, sandbox_id).reached()
