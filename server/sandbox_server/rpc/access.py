"""The RPCs of SandboxAccess: each converts its request, calls the execs and returns the fields of its answer."""

from google.protobuf.timestamp_pb2 import Timestamp
from sandbox.v1 import access_pb2 as pb

from sandbox_server.access.execs import Execs
from sandbox_server.access.files import Files
from sandbox_server.access.logs import Beat, Logs
from sandbox_server.access.ports import Bytes, Ports
from sandbox_server.access.streams import Happening, Streams
from sandbox_server.access.trees import Trees
from sandbox_server.domain.logs import Part
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.principal import Principal
from sandbox_server.rpc import deadlines, execs, logs, ports
from sandbox_server.rpc.auth import Caller
from sandbox_server.rpc.calls import Fields
from sandbox_server.rpc.files import FileCalls
from sandbox_server.rpc.receive import Stream
from sandbox_server.rpc.trees import TreeCalls
from sandbox_server.terminal.sessions import Sessions


class AccessServicer(FileCalls, TreeCalls):
    """Implements SandboxAccess; see `calls.Servicer`. What is in a sandbox is for those who may change it."""

    described = pb.DESCRIPTOR.services_by_name["SandboxAccess"]
    endless = frozenset({"AttachExec", "WriteStdin", "StreamLogs", "ForwardPort"})

    def __init__(
        self,
        found: Execs,
        streams: Streams,
        printed: Logs,
        reached: Ports,
        files: Files,
        trees: Trees,
        terminals: Sessions,
        pace: Pace,
    ) -> None:
        FileCalls.__init__(self, files, pace)
        TreeCalls.__init__(self, trees, pace)
        self._terminals = terminals
        self._logs = printed
        self._ports = reached
        self._execs = found
        self._streams = streams
        self._pace = pace

    async def StartExec(self, principal: Principal, request: pb.StartExecRequest, caller: Caller) -> Fields:
        expected = request.expected_incarnation
        place, stored, payload, asked = execs.start(principal, request)
        started = self._execs.start(place, stored, payload, expected, asked)
        return {"exec": execs.exec_fields(await deadlines.within(self._pace.call_most, caller, started))}

    async def AttachExec(self, principal: Principal, request: pb.AttachExecRequest, caller: Caller) -> None:
        principal.permit("AttachExec")
        place, offsets = execs.attached(principal, request)

        async def send(one: Happening) -> None:
            await caller.write(execs.happening(one))

        await self._streams.attach(place, offsets, send)

    async def WriteStdin(self, principal: Principal, requests: Stream[pb.WriteStdinRequest], _caller: Caller) -> Fields:
        principal.permit("WriteStdin")
        place, parts = await execs.written(principal, requests)
        return {"accepted_offset": await self._streams.write(place, parts)}

    async def SignalExec(self, principal: Principal, request: pb.SignalExecRequest, caller: Caller) -> Fields:
        principal.permit("SignalExec")
        place, name = execs.signalled(principal, request)
        await deadlines.within(self._pace.call_most, caller, self._execs.signal(place, name))
        return {}

    async def ResizeExec(self, principal: Principal, request: pb.ResizeExecRequest, caller: Caller) -> Fields:
        principal.permit("ResizeExec")
        place, terminal = execs.resized(principal, request)
        await deadlines.within(self._pace.call_most, caller, self._execs.resize(place, terminal))
        return {}

    async def GetExec(self, principal: Principal, request: pb.GetExecRequest, caller: Caller) -> Fields:
        principal.permit("GetExec")
        found = self._execs.get(execs.place(principal, request))
        return {"exec": execs.exec_fields(await deadlines.within(self._pace.call_most, caller, found))}

    async def ListExecs(self, principal: Principal, request: pb.ListExecsRequest, caller: Caller) -> Fields:
        principal.permit("ListExecs")
        found = self._execs.list(execs.sandbox(principal, request))
        listed = await deadlines.within(self._pace.call_most, caller, found)
        return {"execs": [execs.exec_fields(one) for one in listed]}

    async def WaitExec(self, principal: Principal, request: pb.WaitExecRequest, caller: Caller) -> Fields:
        principal.permit("WaitExec")
        place = execs.place(principal, request)
        seconds = execs.wait_seconds(request, caller.time_remaining())
        waited = self._execs.wait(place, seconds)
        return {"exec": execs.exec_fields(await deadlines.within(self._pace.call_most + seconds, caller, waited))}

    async def StreamLogs(self, principal: Principal, request: pb.StreamLogsRequest, caller: Caller) -> None:
        principal.permit("StreamLogs")
        key, asked = logs.asked(principal, request)

        async def send(one: Part | Beat) -> None:
            await caller.write(logs.part(one))

        await self._logs.stream(principal, key, asked, send)

    async def ForwardPort(self, principal: Principal, requests: Stream[pb.ForwardPortRequest], caller: Caller) -> None:
        principal.permit("ForwardPort")
        key, port, parts = await ports.asked(principal, requests)
        # A client of gRPC repeats no call that was answered. A repeat would send data twice, to two connections.
        await caller.send_initial_metadata(())

        async def send(one: Bytes) -> None:
            await caller.write(ports.part(one))

        await self._ports.forward(principal, key, port, parts, send)

    async def OpenTerminal(self, principal: Principal, request: pb.OpenTerminalRequest, caller: Caller) -> Fields:
        principal.permit("OpenTerminal")
        key = execs.sandbox(principal, request).key
        opened = self._terminals.ticket(principal, key)
        ticket, expires_at = await deadlines.within(self._pace.call_most, caller, opened)
        return {"ticket": ticket, "url": self._terminals.url(key), "expires_at": Timestamp(seconds=int(expires_at))}
