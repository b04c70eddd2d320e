"""How long a wait goes on for a sandbox in PHASE_ERROR: that depends on who can remove the cause."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import sandbox_pb2_grpc
from sandbox_client import AsyncClient, Client, errors, retry

from tests.support.programs import Program
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.find(7)
Step = tuple[float, int, int]
"""Seconds after the step before it, a phase and a remedy."""
E, S, R = pb.PHASE_ERROR, pb.PHASE_STARTING, pb.PHASE_RUNNING
WAIT, CALLER, OPERATOR = pb.REMEDY_WAIT, pb.REMEDY_CALLER, pb.REMEDY_OPERATOR


class Story(sandbox_pb2_grpc.SandboxServiceServicer):
    """A service whose one sandbox goes through `steps`, from when it is first watched."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._statuses: list[pb.SandboxStatus] = []
        self._told: asyncio.Task[None] | None = None
        self.resumed: list[int] = []

    async def _tell(self) -> None:
        for number, (after, phase, remedy) in enumerate(self.steps, 1):
            await asyncio.sleep(after)
            self._statuses.append(
                pb.SandboxStatus(sandbox_id="demo", sequence=number, generation=1, phase=phase, remedy=remedy)  # type: ignore[arg-type]
            )

    async def CreateSandbox(self, request: Any, context: Any) -> pb.CreateSandboxResponse:  # noqa: N802
        status = pb.SandboxStatus(sandbox_id="demo", generation=1)
        return pb.CreateSandboxResponse(sandbox=pb.Sandbox(sandbox_id="demo", status=status))

    async def WatchStatus(self, request: Any, context: Any) -> AsyncIterator[pb.WatchStatusResponse]:  # noqa: N802
        self._told = self._told or asyncio.create_task(self._tell())
        at = request.after_sequence
        if request.HasField("after_sequence"):
            self.resumed.append(at)
        else:
            yield pb.WatchStatusResponse(snapshot_complete=pb.SnapshotComplete())
        while True:
            for status in self._statuses[at:]:
                at = status.sequence
                yield pb.WatchStatusResponse(sequence=at, status=status)
            await asyncio.sleep(0.01)


@pytest.fixture
async def story() -> AsyncIterator[tuple[Story, str]]:
    made, server = Story(), grpc.aio.server()
    sandbox_pb2_grpc.add_SandboxServiceServicer_to_server(made, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield made, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def waited(kind: str, address: str, **options: Any) -> pb.SandboxStatus:
    """What a wait for RUNNING of either client comes to."""
    asked = {"generation": 1, "fail_on_error": True, "timeout": 20.0 * PATIENCE, **options}
    if kind == "async":
        async with AsyncClient(address) as client:
            return await client.wait_until("demo", "RUNNING", **asked)

    def ordinary() -> pb.SandboxStatus:
        with Client(address) as client:
            return client.wait_until("demo", "RUNNING", **asked)

    return await asyncio.to_thread(ordinary)


@pytest.fixture(params=["async", "ordinary"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("remedy", [CALLER, pb.REMEDY_UNSPECIFIED])
async def test_error_that_its_caller_has_to_remove_ends_the_wait_at_once(
    story: tuple[Story, str], kind: str, remedy: int
) -> None:
    story[0].steps = [(0, S, WAIT), (0, E, remedy), (1, R, 0)]
    with pytest.raises(errors.SandboxFailed):
        await waited(kind, story[1])


@pytest.mark.parametrize("remedy", [WAIT, OPERATOR, 99])
async def test_error_that_may_pass_is_borne_with_for_the_patience(
    story: tuple[Story, str], kind: str, remedy: int
) -> None:
    story[0].steps = [(0, S, WAIT), (0, E, remedy)]
    began = time.monotonic()
    with pytest.raises(errors.SandboxFailed) as caught:
        await waited(kind, story[1], patience=0.6)
    # Before the time of the wait is over, which would be another error.
    assert time.monotonic() - began > 0.55
    assert caught.value.status.remedy == remedy


@pytest.mark.slow
async def test_error_that_passes_within_the_patience_does_not_end_the_wait(story: tuple[Story, str], kind: str) -> None:
    # Longer in all than the patience: what counts is one error, and each that passed is over.
    failing, over = [(0.05, E, remedy) for remedy in (WAIT, OPERATOR) * 4], (0.5, S, WAIT)
    story[0].steps = [step for error in failing for step in (error, over)] + [(0.3, R, 0)]
    heard: list[int] = []
    status = await waited(kind, story[1], patience=3.5, progress=lambda one: heard.append(one.sequence))
    assert status.phase == R
    assert heard == [*range(1, 18)]
    assert story[0].resumed == [*range(1, 17)]


async def test_error_that_turns_into_one_of_the_caller_ends_the_wait(story: tuple[Story, str], kind: str) -> None:
    story[0].steps = [(0, E, WAIT), (0.2, E, CALLER)]
    with pytest.raises(errors.SandboxFailed) as caught:
        await waited(kind, story[1])
    assert caught.value.status.remedy == CALLER


async def test_time_that_runs_out_before_the_patience_says_so(story: tuple[Story, str], kind: str) -> None:
    story[0].steps = [(0, E, WAIT)]
    with pytest.raises(errors.TimedOut, match="demo is ERROR"):
        await waited(kind, story[1], timeout=3)


async def test_no_patience_ends_the_wait_at_the_first_error(story: tuple[Story, str], kind: str) -> None:
    story[0].steps = [(0, E, WAIT), (1, R, 0)]
    with pytest.raises(errors.SandboxFailed):
        await waited(kind, story[1], patience=0)


async def test_error_is_borne_with_as_long_as_time_is_left_unless_the_wait_fails_on_errors(
    story: tuple[Story, str], kind: str
) -> None:
    story[0].steps = [(0, E, CALLER), (0.2, R, 0)]
    assert (await waited(kind, story[1], fail_on_error=False, patience=0)).phase == R


def test_patience_is_two_minutes() -> None:
    assert retry.PATIENCE == 120


@pytest.mark.parametrize(("remedy", "patience", "least"), [(CALLER, "60", 0.0), (OPERATOR, "0.5", 0.5)])
async def test_command_line_fails_with_the_cause_at_once_or_after_its_patience(
    story: tuple[Story, str], remedy: int, patience: str, least: float
) -> None:
    story[0].steps = [(0, E, remedy)]
    words = ["create", "-p", "demo", "--wait", "--patience", patience, "--server", story[1]]
    with Program("sandboxctl", *words, stderr=subprocess.PIPE, text=True) as process:
        began = time.monotonic()
        _, said = await asyncio.to_thread(process.communicate, timeout=30 * PATIENCE)
    assert process.returncode == 1
    assert "failed: demo: " in said
    assert time.monotonic() - began > least
