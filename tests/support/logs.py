"""A client of StreamLogs, and what the tests of logs need of an engine's world."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import grpc
from sandbox.v1 import access_pb2 as pb
from sandbox.v1 import access_pb2_grpc

from tests.support.rig import A, Rig
from tests.support.working import WITHIN


class Talker(Protocol):
    """A sandbox `A` that runs and prints what a test has it print."""

    rig: Any

    async def say(self, data: bytes) -> None:
        """Has the process print these bytes. Returns when they are in the engine's log."""

    async def crash(self) -> None:
        """Has the process end by itself, with exit code 3."""


class Output:
    """What streams have sent: the bytes, the position after them, the gaps and the end."""

    def __init__(self) -> None:
        self.data = b""
        self.position = ""
        self.parts: list[pb.LogLines] = []
        self.gaps: list[int] = []
        self.ended: str = ""
        self.beats = 0

    def add(self, one: pb.StreamLogsResponse) -> None:
        assert self.ended == ""
        match one.WhichOneof("event"):
            case "lines":
                assert 0 < len(one.lines.data) <= 64 * 1024
                self.data += one.lines.data
                self.position = one.lines.position
                self.parts.append(one.lines)
            case "gap":
                self.gaps.append(len(self.data))
            case "ended":
                self.ended = pb.LogEndReason.Name(one.ended.reason).removeprefix("LOG_END_REASON_")
            case "heartbeat":
                self.beats += 1


class Reader:
    """Reads the logs of a sandbox."""

    def __init__(self, channel: grpc.aio.Channel, sandbox_id: str = A) -> None:
        self.stub: Any = access_pb2_grpc.SandboxAccessStub(channel)
        self.names = {"sandbox_id": sandbox_id}

    def stream(self, **fields: Any) -> Any:
        return self.stub.StreamLogs(pb.StreamLogsRequest(**self.names, **fields), timeout=WITHIN)

    async def read(self, output: Output | None = None, **fields: Any) -> Output:
        """Everything until the stream ends; after what `output` has."""
        output = output or Output()
        async for one in self.stream(after_position=output.position, **fields):
            output.add(one)
        return output


@asynccontextmanager
async def reading(rig: Rig) -> AsyncIterator[Reader]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
        yield Reader(channel)
