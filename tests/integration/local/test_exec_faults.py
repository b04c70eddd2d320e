"""What commands and the users of sandboxes can do to execs, and what a network can do to calls about them."""

import asyncio
import dataclasses
import subprocess
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import psutil
import pytest
from sandbox.v1 import access_pb2 as pb
from sandbox_server.access import talk_script
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase

from tests.support.local import LocalRig
from tests.support.relay import to
from tests.support.rig import FAST
from tests.support.waiting import PATIENCE
from tests.support.working import Printed, Worker, refusal

A = "exec-a"
B = "exec-b"
OWN = (("grpc.use_local_subchannel_pool", 1),)
"""Channels that wait for nothing that another one has met."""


@pytest.fixture
def pace() -> Pace:
    """Programs in a sandbox are no faster for a test, but those that never answer are waited for less."""
    return dataclasses.replace(FAST, access_within=3, access_end_shown_within=0.2)


@pytest.fixture
async def worker(rig: LocalRig) -> AsyncIterator[Worker]:
    """In a sandbox that runs."""
    await rig.create(A, spec=rig.ground.script("exec sleep MARK"))
    await rig.settled(A, Phase.RUNNING)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
        yield Worker(channel, A)


@pytest.mark.fault(85)
async def test_input_of_a_command_that_never_reads_is_bounded_and_hinders_nobody(worker: Worker) -> None:
    started = await worker.start("sleep", "100", stdin=True)
    data = bytes(256 * 1024)
    writing = asyncio.create_task(worker.write(started, *((number * len(data), data) for number in range(40))))
    reached = 0
    while (accepted := (await worker.get(started)).accepted_offset) > reached or accepted < talk_script.PENDING_MOST:
        reached = accepted
        await asyncio.sleep(0.3)
    assert reached < 2 * talk_script.PENDING_MOST
    assert not writing.done()
    assert (await worker.run("echo other")).out == b"other\n"
    await worker.signal(started, "KILL")
    with pytest.raises(grpc.RpcError) as caught:
        await writing
    # A client of Python whose stream ends while it sends may lose the status.
    assert caught.value.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INTERNAL)


@pytest.mark.fault(86)
@pytest.mark.slow
async def test_output_without_line_ends_arrives_whole_and_in_bounded_memory(worker: Worker) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    started = await worker.shell("head -c 60000000 /dev/zero; printf end")
    length, last, most = 0, b"", 0
    async for one in worker.attached(started, Printed()):
        length += one.gap.length + len(one.output.data)
        last = one.output.data or last
        most = max(most, process.memory_info().rss - before)
    assert (length, last[-3:]) == (60_000_003, b"end")
    assert most < 32 << 20


@pytest.mark.slow
@pytest.mark.fault(87)
async def test_command_that_ignores_sigterm_is_killed_when_its_time_is_over(worker: Worker) -> None:
    started = await worker.shell("trap '' TERM; echo up; while :; do sleep 0.1; done", timeout_seconds=1)
    await worker.until(started, Printed(), b"up")
    await worker.signal(started, "TERM")
    ended = await worker.wait(started)
    assert ended.exited == pb.ExecExited(code=137, signal=9, reason=pb.EXEC_EXIT_REASON_TIMEOUT)


@pytest.mark.parametrize("isolation", ["isolated"])
@pytest.mark.fault(88)
@pytest.mark.slow
async def test_commands_up_to_the_limit_of_processes_hinder_no_other_sandbox_and_no_stop(
    worker: Worker, rig: LocalRig
) -> None:
    # The limit of a namespace, from Linux 6.14 on.
    inner = max(rig.ground.marked())
    before = Path("/proc/sys/kernel/pid_max").read_text()
    subprocess.run(["nsenter", "-t", str(inner), "-p", "sh", "-c", "echo 400 >/proc/sys/kernel/pid_max"], check=False)
    if Path("/proc/sys/kernel/pid_max").read_text() != before:
        Path("/proc/sys/kernel/pid_max").write_text(before)
        pytest.skip("this kernel has one limit for all namespaces")
    await worker.shell(f"while :; do (sleep {rig.ground.mark} &); done")
    with pytest.raises(grpc.RpcError) as caught:
        async with asyncio.timeout(30 * PATIENCE):
            while True:
                await worker.ids()
    assert refusal(caught.value)[:2] == ("UNAVAILABLE", "SANDBOX_NOT_REACHED")
    assert len(rig.ground.marked()) > 100
    await rig.create(B, spec=rig.ground.script("exec sleep MARK"))
    await rig.settled(B, Phase.RUNNING)
    worker.names = {"sandbox_id": B}
    assert (await worker.run("echo other")).out == b"other\n"
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    assert len(rig.ground.marked()) == 1


HOSTILE = {
    "a link out": "rm o.*; ln -s /etc/passwd o.000000000000000; echo 40 >printed.o",
    "a FIFO as segment": "rm o.*; mkfifo o.000000000000000; echo 40 >printed.o",
    "a directory as segment": "rm o.*; mkdir o.000000000000000; echo 40 >printed.o",
    "a huge sparse file": "truncate -s 1T o.000000000000000; echo 1099511627776 >printed.o",
    "a shorter file": "echo 999999 >printed.o",
    "a negative length": "echo -5 >printed.o",
    "a length that is none": "echo 0x7fffffff >printed.o",
    "a length beyond all": "echo 99999999999999999999 >printed.o",
    "absurd names": "touch o.-1 'o. ' o.9999999999999999999999 'o.a[$(touch /tmp/x)]' 'o.\n0'",
    "a name beyond the end": "rm o.*; touch o.000000000099999",
    "a link as exit": "ln -s /dev/zero exit",
    "a FIFO as exit": "mkfifo exit",
    "an exit that is none": "echo 0 whatever >exit",
    "an endless exit": "head -c 5000000 /dev/zero | tr '\\0' 9 >exit",
    "a FIFO as length": "rm printed.o; mkfifo printed.o",
    "no FIFO for those who follow": "rm -r w; touch w",
    "a size that is none": "echo 5 >size",
    "input with an absurd length": "echo '999999999 x' >i/0; echo 77777777777 >i.fed",
    "no FIFO for input": "rm in i.poke; mkdir in i.poke",
}


@pytest.mark.fault(89)
@pytest.mark.slow
async def test_whatever_the_user_of_a_sandbox_does_to_execs_calls_end(worker: Worker, rig: LocalRig) -> None:
    rig.settings["heartbeat"] = 1
    await rig.restart()
    await rig.settled(A, Phase.RUNNING)
    process = psutil.Process()
    before = process.memory_info().rss
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
        later = Worker(channel, A)
        async with asyncio.timeout(60 * PATIENCE):
            await asyncio.gather(*(suffered(later, f"e{number}", HOSTILE[what]) for number, what in enumerate(HOSTILE)))
        # Other execs of the same sandbox, and those who list them, are not hindered.
        assert (await later.run("echo other")).out == b"other\n"
        assert len(await later.ids()) > len(HOSTILE) / 2
    assert process.memory_info().rss - before < 64 << 20


async def suffered(worker: Worker, exec_id: str, script: str) -> None:
    """Runs every kind of call about an exec whose files a command has changed."""
    folder = '"${SANDBOX_ACCESS:-/tmp/.sandbox-access}"'
    script = f"echo mine; cd {folder}/{exec_id}; {script}\nexec sleep 5"
    started = await worker.shell(script, exec_id=exec_id, stdin=True)
    await asyncio.sleep(1)

    async def read() -> None:
        length = 0
        async for one in worker.attached(started, Printed()):
            assert b"root:" not in one.output.data
            length += len(one.output.data)
            if length > 10_000_000:
                return

    calls = (read(), worker.get(started), worker.write(started, (0, b"x")), worker.wait(started, timeout_seconds=1))
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, grpc.RpcError):
            assert refusal(outcome)[0] in ("UNAVAILABLE", "FAILED_PRECONDITION", "OUT_OF_RANGE"), (script, outcome)
        else:
            assert outcome is None or isinstance(outcome, pb.Exec | int), (script, outcome)


@pytest.mark.parametrize("isolation", ["plain"])
@pytest.mark.parametrize(
    ("first", "step"), [(0, 41), *(pytest.param(first, 16, marks=pytest.mark.slow) for first in range(16))]
)
@pytest.mark.fault(90)
@pytest.mark.slow
async def test_connection_that_is_cut_at_any_byte_loses_and_repeats_nothing(
    worker: Worker, rig: LocalRig, first: int, step: int
) -> None:
    runs = 0
    for answers in (False, True):
        at = first
        whole = False
        while not whole:
            whole = await converse(rig, answers, at)
            runs += 1
            at += step
    assert (rig.ground.home(A) / "runs").read_text() == "ran\n" * runs
    assert runs > 20


async def converse(rig: LocalRig, answers: bool, at: int) -> bool:
    """Runs a short command through a connection that is cut after so many bytes of one direction, and goes on after it.

    Returns whether it was never cut. Of a cut before its call was sent, gRPC says nothing, and connects again."""
    with to(rig.port) as relay:
        relay.cut_after(at, answers)
        request_id = str(uuid.uuid4())
        printed = Printed()
        started = None
        while printed.exited is None:
            async with grpc.aio.insecure_channel(relay.address, options=OWN) as channel:
                through = Worker(channel, A)
                try:
                    if started is None:
                        started = await through.shell(
                            "echo ran >>runs; echo out; echo err >&2; exit 7", request_id=request_id
                        )
                    await through.follow(started, printed)
                except grpc.RpcError as error:
                    assert error.code() in (
                        grpc.StatusCode.UNAVAILABLE,
                        grpc.StatusCode.UNKNOWN,
                        grpc.StatusCode.INTERNAL,
                    )
        assert (printed.out, printed.err, printed.exited.code) == (b"out\n", b"err\n", 7)
        return relay.connections == 1
