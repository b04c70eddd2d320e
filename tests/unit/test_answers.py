"""What all calls have in common: how long they may take, and the form of their errors."""

import asyncio
import base64
from typing import Any

import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2
from grpc_status import rpc_status
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server.domain import errors
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.tenant import Tenant
from sandbox_server.rpc import errors as rpc_errors
from sandbox_server.rpc import servicer
from sandbox_server.settings import Settings

from tests.support import samples


class Call:
    def __init__(self, remaining: float | None) -> None:
        self._remaining = remaining

    def time_remaining(self) -> float | None:
        return self._remaining


class Stuck:
    """A manager whose database does not answer. It has seen the sequence 5."""

    sequence = 5

    def find(self, *_: Any) -> None:
        return None

    async def never(self, *_: Any) -> None:
        await asyncio.Event().wait()

    get = wait = list = events = create = start = stop = delete = update_env = never


@pytest.mark.parametrize("allowed", [None, 3600.0, 0.01])
@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (pb.GetStatusRequest(sandbox_id="a"), "DEADLINE_EXCEEDED"),
        (pb.GetStatusRequest(sandbox_id="a", min_sequence=5), "DEADLINE_EXCEEDED"),
        (pb.GetStatusRequest(sandbox_id="a", min_sequence=6), "SEQUENCE_NOT_SEEN"),
        (pb.GetSandboxRequest(sandbox_id="a", min_sequence=6), "SEQUENCE_NOT_SEEN"),
        (pb.WaitForPhaseRequest(sandbox_id="a", phase=pb.PHASE_RUNNING, timeout_seconds=0), "DEADLINE_EXCEEDED"),
        (pb.ListEventsRequest(), "DEADLINE_EXCEEDED"),
        (pb.ListSandboxesRequest(phases=[pb.PHASE_TERMINATED]), "DEADLINE_EXCEEDED"),
        (pb.CreateSandboxRequest(spec=pb.SandboxSpec(project="demo")), "DEADLINE_EXCEEDED"),
        (pb.StartRequest(sandbox_id="a"), "DEADLINE_EXCEEDED"),
        (pb.StopRequest(sandbox_id="a"), "DEADLINE_EXCEEDED"),
        (pb.DeleteRequest(sandbox_id="a"), "DEADLINE_EXCEEDED"),
        (pb.UpdateEnvVarsRequest(sandbox_id="a", set={"A": "1"}), "DEADLINE_EXCEEDED"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_every_unary_call_ends_in_time_whatever_its_caller_allows(
    request_: Message, reason: str, allowed: float | None
) -> None:
    assert Pace.call_most == 30
    stuck: Any = Stuck()
    chosen = Settings()
    methods = servicer.Servicer(
        stuck, stuck, stuck, stuck, chosen.defaults, chosen.policy, Pace(call_most=0.05), samples.DEPLOYMENT
    )
    asked = getattr(methods, type(request_).__name__.removesuffix("Request"))
    async with asyncio.timeout(5):
        with pytest.raises(errors.DeadlineExceeded) as caught:
            await asked(
                Tenant("default", ("default",)), type(request_).FromString(request_.SerializeToString()), Call(allowed)
            )
    assert caught.value.reason == reason


def test_unavailable_says_when_to_try_again() -> None:
    answer = rpc_errors.status("Start", errors.Unavailable("DATABASE_UNAVAILABLE", "repeat the call"))
    retry = error_details_pb2.RetryInfo()
    assert answer.code == code_pb2.UNAVAILABLE
    assert [one.Unpack(retry) for one in answer.details] == [False, True]
    assert retry.retry_delay.ToTimedelta().total_seconds() == rpc_errors.RETRY_SECONDS > 0


@pytest.mark.parametrize("cause", [RuntimeError(samples.CANARY), KeyError(samples.CANARY), OSError(2, samples.CANARY)])
def test_internal_tells_a_reference_and_nothing_of_the_cause(
    cause: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = rpc_errors.status("Start", cause)
    info = error_details_pb2.ErrorInfo()
    assert answer.code == code_pb2.INTERNAL
    assert [one.Unpack(info) for one in answer.details] == [True]
    assert (info.reason, info.domain) == ("INTERNAL", rpc_errors.DOMAIN)
    assert samples.CANARY.encode() not in answer.SerializeToString()
    assert info.metadata["reference"] in answer.message
    logged = capsys.readouterr()
    assert info.metadata["reference"] in logged.out + logged.err


@pytest.mark.parametrize("description", ["is required", "must be a DNS label of at most 63 characters: a-z, 0-9, -"])
def test_any_number_of_bad_fields_fits_the_metadata_that_clients_take(description: str) -> None:
    found = tuple(errors.Violation(f"unset[{index}]", description) for index in range(1000))
    told = rpc_status.to_status(rpc_errors.status("UpdateEnvVars", errors.Invalid(found)))
    ((name, details),) = told.trailing_metadata
    # As HTTP/2 counts it, binary metadata in base64; the other headers have the rest of the 8 KiB.
    sent = ("grpc-message", told.details.encode()), (name, base64.b64encode(details))
    assert 4096 < sum(len(key) + len(value) + 32 for key, value in sent) < 8192 - 256
