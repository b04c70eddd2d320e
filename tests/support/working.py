"""A client of SandboxAccess."""

import uuid
from collections.abc import Iterable
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from sandbox.v1 import access_pb2 as pb
from sandbox.v1 import access_pb2_grpc

from tests.support.waiting import PATIENCE

WITHIN = 20 * PATIENCE
"""Seconds that a call has."""


def refusal(error: grpc.RpcError) -> tuple[str, str, dict[str, str]]:
    """The code, the reason and the metadata of a refused call."""
    status: Any = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    return error.code().name, info.reason, dict(info.metadata)


class Printed:
    """What an attached stream has sent: by channel the bytes, and the offset that follows them."""

    def __init__(self) -> None:
        self.incarnation = ""
        self.data = {pb.EXEC_CHANNEL_STDOUT: b"", pb.EXEC_CHANNEL_STDERR: b""}
        self.offsets = {pb.EXEC_CHANNEL_STDOUT: 0, pb.EXEC_CHANNEL_STDERR: 0}
        self.gaps: list[tuple[int, int]] = []
        self.exited: pb.ExecExited | None = None

    def add(self, one: pb.AttachExecResponse) -> None:
        match one.WhichOneof("event"):
            case "started":
                self.incarnation = one.started.incarnation
            case "output":
                channel: Any = one.output.channel
                assert one.output.offset == self.offsets[channel]
                self.data[channel] += one.output.data
                self.offsets[channel] += len(one.output.data)
            case "gap":
                channel = one.gap.channel
                assert one.gap.offset == self.offsets[channel]
                self.offsets[channel] += one.gap.length
                self.gaps.append((one.gap.offset, one.gap.length))
            case "exited":
                self.exited = one.exited

    @property
    def out(self) -> bytes:
        return self.data[pb.EXEC_CHANNEL_STDOUT]

    @property
    def err(self) -> bytes:
        return self.data[pb.EXEC_CHANNEL_STDERR]


class Worker:
    """Works in the sandbox `sandbox_id`. Calls have `WITHIN`."""

    def __init__(self, channel: grpc.aio.Channel, sandbox_id: str, namespace: str = "") -> None:
        self.stub: Any = access_pb2_grpc.SandboxAccessStub(channel)
        self.names = {"sandbox_id": sandbox_id, "namespace": namespace}

    async def start(self, *command: str, **fields: Any) -> pb.Exec:
        if not fields.get("exec_id"):
            fields.setdefault("request_id", str(uuid.uuid4()))
        request = pb.StartExecRequest(**self.names, command=command, **fields)
        return (await self.stub.StartExec(request, timeout=WITHIN)).exec

    async def shell(self, script: str, **fields: Any) -> pb.Exec:
        return await self.start("/bin/sh", "-c", script, **fields)

    def attached(self, started: pb.Exec, printed: Printed) -> Any:
        """The messages after what was printed before."""
        out, err = printed.offsets.values()
        request = pb.AttachExecRequest(
            **self.names, exec_id=started.exec_id, incarnation=started.incarnation, stdout_offset=out, stderr_offset=err
        )
        return self.stub.AttachExec(request, timeout=WITHIN)

    async def follow(self, started: pb.Exec, printed: Printed | None = None) -> Printed:
        """Everything that is printed until the exec ends."""
        printed = printed or Printed()
        async for one in self.attached(started, printed):
            printed.add(one)
        return printed

    async def until(self, started: pb.Exec, printed: Printed, text: bytes) -> None:
        """Follows until stdout has the text."""
        stream = self.attached(started, printed)
        async for one in stream:
            printed.add(one)
            if text in printed.out:
                stream.cancel()
                return
        raise AssertionError(printed.out)

    async def run(self, script: str, **fields: Any) -> Printed:
        return await self.follow(await self.shell(script, **fields))

    async def write(self, started: pb.Exec, *parts: tuple[int, bytes], eof: bool = False) -> int:
        def requests() -> Iterable[pb.WriteStdinRequest]:
            for number, (offset, data) in enumerate(parts, 1):
                last = eof and number == len(parts)
                yield pb.WriteStdinRequest(**self.names, exec_id=started.exec_id, offset=offset, data=data, eof=last)

        return int((await self.stub.WriteStdin(requests(), timeout=WITHIN)).accepted_offset)

    async def signal(self, started: pb.Exec, name: str) -> None:
        await self.stub.SignalExec(
            pb.SignalExecRequest(**self.names, exec_id=started.exec_id, signal=name), timeout=WITHIN
        )

    async def resize(self, started: pb.Exec, rows: int, cols: int) -> None:
        terminal = pb.Terminal(rows=rows, cols=cols)
        request = pb.ResizeExecRequest(**self.names, exec_id=started.exec_id, terminal=terminal)
        await self.stub.ResizeExec(request, timeout=WITHIN)

    async def get(self, started: pb.Exec) -> pb.Exec:
        request = pb.GetExecRequest(**self.names, exec_id=started.exec_id, incarnation=started.incarnation)
        return (await self.stub.GetExec(request, timeout=WITHIN)).exec

    async def wait(self, started: pb.Exec, **fields: Any) -> pb.Exec:
        request = pb.WaitExecRequest(**self.names, exec_id=started.exec_id, incarnation=started.incarnation, **fields)
        return (await self.stub.WaitExec(request, timeout=WITHIN)).exec

    async def ids(self) -> list[str]:
        answer = await self.stub.ListExecs(pb.ListExecsRequest(**self.names), timeout=WITHIN)
        return [one.exec_id for one in answer.execs]
