"""The services that the benchmarks measure start with the parts that they are given, and change at a signal."""

import signal

import grpc
import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import sandbox_pb2_grpc

from benchmarks import load
from tests.support.waiting import PATIENCE


@pytest.mark.slow
def test_sandboxes_of_the_start_run_after_the_signal() -> None:
    with load.server("start", "3") as process, grpc.insecure_channel(process.address) as channel:
        stub = sandbox_pb2_grpc.SandboxServiceStub(channel)
        wait = pb.WaitForPhaseRequest(sandbox_id="bench-2", phase=pb.PHASE_RUNNING, timeout_seconds=0)
        assert stub.WaitForPhase(wait, timeout=20 * PATIENCE).outcome == pb.WAIT_OUTCOME_PENDING
        process.popen.send_signal(signal.SIGUSR1)
        wait.timeout_seconds = 20 * PATIENCE
        assert stub.WaitForPhase(wait, timeout=30 * PATIENCE).outcome == pb.WAIT_OUTCOME_REACHED


@pytest.mark.slow
def test_one_sandbox_of_the_watch_changes_at_each_signal() -> None:
    with load.server("watch", "3") as process, grpc.insecure_channel(process.address) as channel:
        stub = sandbox_pb2_grpc.SandboxServiceStub(channel)
        watch = stub.WatchStatus(pb.WatchStatusRequest(project="bench"), timeout=30 * PATIENCE)
        assert [next(watch).WhichOneof("event") for _ in range(2)] == ["status", "snapshot_complete"]
        for sequence in (4, 5):
            process.popen.send_signal(signal.SIGUSR1)
            assert next(watch).sequence == sequence
        watch.cancel()
