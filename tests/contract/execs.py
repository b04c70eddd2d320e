"""The contract of execs, through a real gRPC client. Each engine runs these very tests against its own ground, through the
fixture `rig`."""

import asyncio
import contextlib
import dataclasses
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import psutil
import pytest
from sandbox.v1 import access_pb2 as pb
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.spec import SandboxSpec

from tests.support.rig import Rig
from tests.support.scripted import until
from tests.support.working import WITHIN, Printed, Worker, refusal

A = "exec-a"


@pytest.fixture
def idle(rig: Rig) -> SandboxSpec:
    """The spec of a sandbox that runs and does nothing."""
    return rig.ground.spec()


@asynccontextmanager
async def working(rig: Rig, sandbox_id: str = A) -> AsyncIterator[Worker]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
        yield Worker(channel, sandbox_id)


@pytest.fixture
async def worker(rig: Rig, idle: SandboxSpec) -> AsyncIterator[Worker]:
    """In a sandbox that runs."""
    await rig.create(A, {"TOKEN": "hush"}, spec=idle)
    await rig.settled(A, Phase.RUNNING)
    async with working(rig) as made:
        yield made


@pytest.fixture
def running() -> Callable[[], int]:
    """Counts the sleeps of this test, which it tells by their time: `sleep $LONG`."""
    return lambda: sum(map(_is_long, psutil.process_iter()))


LONG = f"1000.{uuid.uuid4().int % 10**9}"


def _is_long(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.cmdline() == ["sleep", LONG] and process.status() != psutil.STATUS_ZOMBIE
    return False


async def test_command_runs_in_the_sandbox_with_its_environment_and_answers_with_its_output_and_code(
    worker: Worker,
) -> None:
    script = 'echo "$TOKEN $MORE"; echo wrong >&2; test "$PWD" = "$HOME"; echo $?; exit 3'
    started = await worker.shell(script, env={"MORE": "it's\n$here"})
    printed = await worker.follow(started)
    assert printed.out.decode() == "hush it's\n$here\n0\n"
    assert printed.err == b"wrong\n"
    assert printed.exited == pb.ExecExited(code=3, reason=pb.EXEC_EXIT_REASON_EXIT)
    found = await worker.get(started)
    assert (found.state, found.stdout_length, found.stderr_length) == (pb.EXEC_STATE_EXITED, len(printed.out), 6)
    assert await worker.ids() == [started.exec_id]


async def test_the_arguments_are_passed_as_they_are(worker: Worker) -> None:
    odd = ["a  b", "", "'", '"$HOME"', "*", "\\n", "two\nlines", "ü"]
    printed = await worker.follow(await worker.start("printf", "<%s>", *odd))
    assert printed.out.decode() == "".join(f"<{one}>" for one in odd)


async def test_program_that_does_not_exist_exits_with_127(worker: Worker) -> None:
    printed = await worker.follow(await worker.start("no-such-program"))
    assert printed.exited is not None
    assert printed.exited.code == 127


async def test_working_directory_and_time_limit(worker: Worker) -> None:
    printed = await worker.run("pwd; exec sleep 100", cwd="/usr", timeout_seconds=1)
    assert printed.out == b"/usr\n"
    assert printed.exited == pb.ExecExited(code=143, signal=15, reason=pb.EXEC_EXIT_REASON_TIMEOUT)


async def test_cut_stream_resumes_at_its_offsets_with_nothing_missing_or_repeated(worker: Worker) -> None:
    script = "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); sleep 0.005; done"
    started = await worker.shell(script)
    printed = Printed()
    while printed.exited is None:
        count = 0
        stream = worker.attached(started, printed)
        async for one in stream:
            printed.add(one)
            count += 1
            if count == 5 and printed.exited is None:
                stream.cancel()
                break
    assert printed.out.decode() == "".join(f"line {number}\n" for number in range(300))
    assert printed.gaps == []


async def test_output_that_is_no_longer_kept_is_a_gap(worker: Worker) -> None:
    started = await worker.shell("head -c 30000000 /dev/zero | tr '\\0' x")
    assert (await worker.wait(started)).state == pb.EXEC_STATE_EXITED
    printed = await worker.follow(started)
    ((begin, length),) = printed.gaps
    assert (begin, length + len(printed.out)) == (0, 30_000_000)
    assert 8 << 20 <= len(printed.out) <= 12 << 20
    assert set(printed.out) == {ord("x")}


async def test_silent_exec_sends_heartbeats(worker: Worker, rig: Rig) -> None:
    started = await worker.shell("echo up; exec sleep 100")
    rig.settings["heartbeat"] = 0.5
    await rig.restart()
    await rig.settled(A, Phase.RUNNING)
    kinds = []
    async with working(rig) as later:
        stream = later.attached(started, Printed())
        async for one in stream:
            kinds.append(one.WhichOneof("event"))
            if kinds[-2:] == ["heartbeat", "heartbeat"] and "output" in kinds:
                break
        stream.cancel()
    # A sandbox that is busy may be silent before its output as well.
    assert [kind for kind in kinds if kind != "heartbeat"] == ["started", "output"]


async def test_attach_beyond_the_end_answers_with_the_right_offsets(worker: Worker) -> None:
    started = await worker.shell("echo hi")
    await worker.wait(started)
    printed = Printed()
    printed.offsets[pb.EXEC_CHANNEL_STDOUT] = 4
    with pytest.raises(grpc.RpcError) as caught:
        await worker.follow(started, printed)
    code, reason, facts = refusal(caught.value)
    assert (code, reason) == ("OUT_OF_RANGE", "OFFSET_NOT_REACHED")
    assert (facts["stdout_offset"], facts["stderr_offset"]) == ("3", "0")


async def test_input_is_written_once_by_its_offset(worker: Worker) -> None:
    started = await worker.start("cat", stdin=True)
    assert await worker.write(started, (0, b"one "), (4, b"two\0\xff ")) == 10
    # A repeat after a lost answer, with something new behind it.
    assert await worker.write(started, (4, b"two\0\xff three")) == 15
    with pytest.raises(grpc.RpcError) as caught:
        await worker.write(started, (99, b"x"))
    code, reason, facts = refusal(caught.value)
    assert (code, reason, facts["accepted_offset"]) == ("OUT_OF_RANGE", "OFFSET_NOT_REACHED", "15")
    assert await worker.write(started, (15, b"."), eof=True) == 16
    printed = await worker.follow(started)
    assert printed.out == b"one two\0\xff three."
    assert printed.exited is not None
    assert printed.exited.code == 0
    with pytest.raises(grpc.RpcError) as caught:
        await worker.write(started, (16, b"late"))
    assert refusal(caught.value)[:2] == ("FAILED_PRECONDITION", "STDIN_CLOSED")


async def test_input_that_pauses_leaves_the_sandbox_and_returns(worker: Worker, rig: Rig) -> None:
    rig.settings["base_pace"] = dataclasses.replace(rig.settings["base_pace"], access_idle=0.2)
    await rig.restart()
    await rig.settled(A, Phase.RUNNING)
    async with working(rig) as later:
        started = await later.start("cat", stdin=True)
        stream = later.stub.WriteStdin(timeout=WITHIN)
        for number, word in enumerate((b"one ", b"two ", b"three ")):
            names = later.names if number == 0 else {}
            offset = 4 * number
            await stream.write(pb.WriteStdinRequest(**names, exec_id=started.exec_id, offset=offset, data=word))
            await asyncio.sleep(0.5)
        await stream.write(pb.WriteStdinRequest(offset=14, eof=True))
        await stream.done_writing()
        assert (await stream).accepted_offset == 14
        assert (await later.follow(started)).out == b"one two three "


async def test_calls_about_execs_of_a_tenant_are_bounded_at_a_replica(worker: Worker, rig: Rig) -> None:
    started = await worker.shell("echo up; exec sleep 100")
    rig.settings["execs_per_tenant"] = 2
    await rig.restart()
    await rig.settled(A, Phase.RUNNING)
    async with working(rig) as later:
        streams = [later.attached(started, Printed()) for _ in range(2)]
        for one in streams:
            assert (await one.read()).WhichOneof("event") == "started"
        with pytest.raises(grpc.RpcError) as caught:
            await later.get(started)
        code, reason, facts = refusal(caught.value)
        assert (code, reason, facts["streams"]) == ("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS", "2")
        streams[0].cancel()
        while True:
            try:
                assert (await later.get(started)).state == pb.EXEC_STATE_RUNNING
                break
            except grpc.RpcError as error:
                assert refusal(error)[1] == "TOO_MANY_STREAMS"


async def test_large_input_arrives_whole(worker: Worker) -> None:
    data = bytes(range(256)) * 1024
    started = await worker.start("cksum", stdin=True)
    parts = [(number * len(data), data) for number in range(12)]
    assert await worker.write(started, *parts, eof=True) == 12 * len(data)
    printed = await worker.follow(started)
    assert int(printed.out.split()[1]) == 12 * len(data)


@pytest.mark.parametrize(("name", "number"), [("TERM", 15), ("INT", 2), ("KILL", 9)])
async def test_signal_ends_the_whole_process_group(
    worker: Worker, running: Callable[[], int], name: str, number: int
) -> None:
    started = await worker.shell(f"sleep {LONG} & echo $!; exec sleep {LONG}")
    await until(lambda: running() == 2, within=20)
    await worker.signal(started, name)
    ended = await worker.wait(started)
    assert (ended.state, ended.exited.signal) == (pb.EXEC_STATE_EXITED, number)
    assert ended.exited.reason == pb.EXEC_EXIT_REASON_SIGNAL
    if name == "INT":
        # A shell has what it starts with & ignore SIGINT.
        assert running() == 1
        await worker.run(f"kill {(await worker.follow(started)).out.decode()}")
    await until(lambda: running() == 0)


async def test_terminal_is_typed_on_resized_and_survives_a_restart_of_the_service(worker: Worker, rig: Rig) -> None:
    started = await worker.shell("stty size; exec sh -i", tty=pb.Terminal(rows=33, cols=99), env={"PS1": "ready> "})
    assert started.terminal == pb.Terminal(rows=33, cols=99)
    printed = Printed()
    await worker.until(started, printed, b"ready> ")
    assert printed.out.startswith(b"33 99\r\n")
    # The program says that it is up, and not the shell, which Ctrl-C would not keep from starting it.
    typed = b"sh -c 'echo $((1+1)) up; exec sleep 100'\r"
    assert await worker.write(started, (0, typed)) == len(typed)
    await worker.until(started, printed, b"2 up\r\n")
    await rig.restart()
    await rig.settled(A, Phase.RUNNING)
    async with working(rig) as later:
        await later.resize(started, 40, 120)
        await later.write(started, (len(typed), b"\x03stty size; exit 5\r"))
        await later.follow(started, printed)
        assert b"40 120\r\n" in printed.out
        assert printed.exited is not None
        assert printed.exited.code == 5
        assert (await later.get(started)).terminal == pb.Terminal(rows=40, cols=120)


async def test_key_is_echoed_on_an_open_stream_of_input(worker: Worker) -> None:
    started = await worker.start("cat", tty=pb.Terminal(rows=10, cols=40))
    stream = worker.stub.WriteStdin(timeout=WITHIN)
    printed = Printed()
    for number in range(20):
        names = worker.names if number == 0 else {}
        await stream.write(pb.WriteStdinRequest(**names, exec_id=started.exec_id, offset=number, data=b"k"))
        await worker.until(started, printed, b"k" * (number + 1))
    await stream.done_writing()
    assert (await stream).accepted_offset == 20
    await worker.signal(started, "INT")
    assert (await worker.wait(started)).exited.signal == 2


async def test_resize_without_a_terminal_is_refused(worker: Worker) -> None:
    started = await worker.shell("exec sleep 100")
    with pytest.raises(grpc.RpcError) as caught:
        await worker.resize(started, 40, 120)
    assert refusal(caught.value)[:2] == ("FAILED_PRECONDITION", "NO_TERMINAL")


async def test_the_same_id_runs_once_and_another_payload_is_refused(worker: Worker) -> None:
    script = "echo ran >>runs; sleep 0.2"
    first, *others = await asyncio.gather(*(worker.shell(script, exec_id="once") for _ in range(4)))
    assert {one.exec_id for one in (first, *others)} == {"once"}
    request_id = str(uuid.uuid4())
    asked = await worker.shell(script, request_id=request_id)
    again = await worker.shell(script, request_id=request_id)
    assert (again.exec_id, again.incarnation) == (asked.exec_id, asked.incarnation)
    for one in (first, asked):
        await worker.wait(one)
    assert (await worker.run("cat runs")).out == b"ran\n" * 2
    for fields in ({"exec_id": "once"}, {"request_id": request_id}):
        with pytest.raises(grpc.RpcError) as caught:
            await worker.shell("echo other", **fields)
        assert refusal(caught.value)[:2] == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")


async def test_stop_of_the_sandbox_loses_the_exec_and_says_why(
    worker: Worker, rig: Rig, running: Callable[[], int]
) -> None:
    request_id = str(uuid.uuid4())
    script = f"trap '' TERM; sleep {LONG} & echo up; while :; do sleep {LONG}; done"
    started = await worker.shell(script, request_id=request_id)
    printed = Printed()
    following = asyncio.create_task(worker.follow(started, printed))
    await until(lambda: printed.out == b"up\n")
    await rig.begin(A, Phase.STOPPED)
    await asyncio.wait_for(following, 60)
    assert printed.exited == pb.ExecExited(reason=pb.EXEC_EXIT_REASON_SANDBOX_STOPPED)
    await rig.settled(A, Phase.STOPPED)
    assert running() == 0
    lost = await worker.get(started)
    assert (lost.state, lost.exited.reason) == (pb.EXEC_STATE_LOST, pb.EXEC_EXIT_REASON_SANDBOX_STOPPED)
    with pytest.raises(grpc.RpcError) as caught:
        await worker.shell("true")
    code, reason, facts = refusal(caught.value)
    assert (code, reason, facts["phase"]) == ("FAILED_PRECONDITION", "SANDBOX_NOT_RUNNING", "STOPPED")
    # The next incarnation knows nothing of it, and a repeat of the request runs nothing in it.
    await rig.begin(A, Phase.RUNNING)
    await rig.settled(A, Phase.RUNNING)
    assert await worker.ids() == []
    again = await worker.shell(script, request_id=request_id)
    assert (again.exec_id, again.state) == (started.exec_id, pb.EXEC_STATE_LOST)
    assert again.exited.reason == pb.EXEC_EXIT_REASON_POD_REPLACED
    assert await worker.ids() == []
    with pytest.raises(grpc.RpcError) as caught:
        await worker.shell("true", expected_incarnation=started.incarnation)
    assert refusal(caught.value)[:2] == ("ABORTED", "INCARNATION_CHANGED")


async def test_unknown_execs_and_sandboxes(worker: Worker) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await worker.get(pb.Exec(exec_id="unknown"))
    assert refusal(caught.value)[:2] == ("NOT_FOUND", "EXEC_NOT_FOUND")
    for names in ({"sandbox_id": "unknown"}, {"sandbox_id": A, "namespace": "of-another"}):
        worker.names = names
        for call in (worker.shell("true"), worker.get(pb.Exec(exec_id="a")), worker.ids()):
            with pytest.raises(grpc.RpcError) as caught:
                await call
            assert refusal(caught.value)[:2] == ("NOT_FOUND", "SANDBOX_NOT_FOUND")


async def test_bad_fields_are_refused(worker: Worker) -> None:
    for fields in (
        {"request_id": ""},
        {"exec_id": "../up"},
        {"env": {"A=B": ""}},
        {"env": {"A": "\0"}},
        {"timeout_seconds": -1},
        {"tty": pb.Terminal(rows=0, cols=1)},
        {"tty": pb.Terminal(rows=1, cols=10_001)},
        {"expected_incarnation": "a b"},
    ):
        with pytest.raises(grpc.RpcError) as caught:
            await worker.shell("true", **{"request_id": str(uuid.uuid4()), **fields})
        assert refusal(caught.value)[:2] == ("INVALID_ARGUMENT", "INVALID_FIELDS")
    assert await worker.ids() == []


async def test_restart_of_the_service_ends_no_exec(worker: Worker, rig: Rig) -> None:
    started = await worker.shell("echo one; until test -e go; do sleep 0.05; done; echo two; exit 5")
    await rig.restart()
    await rig.settled(A, Phase.RUNNING)
    async with working(rig) as later:
        await later.run("touch go")
        printed = await later.follow(started)
    assert printed.out == b"one\ntwo\n"
    assert printed.exited is not None
    assert printed.exited.code == 5
