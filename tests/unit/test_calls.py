"""What the wrapper of a call answers while the service stops."""

from typing import Any

import grpc
import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server.domain import errors
from sandbox_server.domain.pace import Pace
from sandbox_server.rpc import calls

GET = pb.DESCRIPTOR.services_by_name["SandboxService"].methods_by_name["GetStatus"]


class Nobody:
    """An authenticator that knows no token."""

    def principal(self, _caller: Any) -> Any:
        raise errors.Unauthenticated("UNAUTHENTICATED", "send a valid token")


class Context:
    """A call that keeps the code with which it is ended."""

    code: grpc.StatusCode | None = None

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def abort(self, code: grpc.StatusCode, *_: Any) -> None:
        self.code = code


@pytest.mark.fault(12)
async def test_stopping_service_answers_every_call_with_unavailable_before_it_looks_at_the_token() -> None:
    nobody: Any = Nobody()
    wrapped = calls.Calls(nobody, Pace())

    async def call(*_: Any) -> None:
        raise AssertionError

    codes = []
    for draining in (False, True):
        wrapped.draining = draining
        context = Context()
        await wrapped._handler(GET, call).stream_unary(None, context)
        codes.append(context.code)
    assert codes == [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE]
