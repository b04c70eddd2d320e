"""Commands in sandboxes by both Python clients, against the live service: lost answers, cut connections, restarts."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient, Channel, Client, Exec, Gap, Output, errors, output, stdin

from tests.support import relay
from tests.support.service import Service
from tests.support.waiting import PATIENCE, eventually

COUNT = "i=0; while [ $i -lt 200 ]; do echo line $i; echo $i >&2; i=$((i+1)); sleep 0.01; done"
LINES = b"".join(b"line %d\n" % number for number in range(200))
NUMBERS = b"".join(b"%d\n" % number for number in range(200))


@pytest.fixture(scope="module")
def sandbox(service: Service) -> Iterator[pb.SandboxStatus]:
    with service.client() as client:
        made = client.create("commands", command=["sleep", "1000"])
        yield client.wait_until(made, "RUNNING", timeout=30 * PATIENCE)
        client.delete(made)


@pytest.fixture
def between(service: Service) -> Iterator[relay.Relay]:
    with relay.to(service.port) as made:
        yield made


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def joined(parts: list[Output | Gap], channel: Channel) -> bytes:
    """The output of a channel, whose offsets must follow each other."""
    data = b""
    for part in parts:
        assert isinstance(part, Output)
        if part.channel is channel:
            assert part.offset == len(data)
            data += part.data
    return data


@pytest.mark.slow
def test_output_over_a_connection_that_is_cut_again_and_again_is_whole_and_not_repeated(
    sandbox: pb.SandboxStatus, between: relay.Relay
) -> None:
    with Client(between.address) as far:
        command = far.exec(sandbox, shell(COUNT))
        parts: list[Output | Gap] = []
        for number, part in enumerate(command):
            parts.append(part)
            if number % 12 == 8:
                between.cut()
    assert joined(parts, Channel.STDOUT) == LINES
    assert joined(parts, Channel.STDERR) == NUMBERS
    assert command.ended == output.Ended(0, 0, "EXIT")
    assert between.connections >= 2


@pytest.mark.slow
async def test_async_output_over_a_connection_that_is_cut_again_and_again_is_whole_and_not_repeated(
    sandbox: pb.SandboxStatus, between: relay.Relay
) -> None:
    async with AsyncClient(between.address) as far:
        command = await far.exec(sandbox, shell(COUNT))
        parts: list[Output | Gap] = []
        async for part in command:
            parts.append(part)
            if len(parts) % 12 == 8:
                between.cut()
    assert joined(parts, Channel.STDOUT) == LINES
    assert joined(parts, Channel.STDERR) == NUMBERS
    assert command.ended == output.Ended(0, 0, "EXIT")
    assert between.connections >= 2


@pytest.mark.slow
def test_reading_goes_on_where_it_was_broken_off_and_another_reader_begins_at_the_beginning(
    sandbox: pb.SandboxStatus, client: Client
) -> None:
    command = client.exec(sandbox, shell(COUNT))
    parts = list(itertools.islice(command, 5))
    parts += command
    assert joined(parts, Channel.STDOUT) == LINES
    again = client.attach(sandbox, command.id)
    assert again.incarnation == command.incarnation
    assert again.complete().stdout == LINES


@pytest.mark.slow
def test_a_start_whose_answer_was_lost_runs_the_command_once(
    sandbox: pb.SandboxStatus, client: Client, between: relay.Relay
) -> None:
    with Client(between.address) as far:
        far.page()
        between.lose_answer_to(b"run-once")
        started = far.exec(sandbox, shell("echo ran >>run-once"))
        assert started.wait().code == 0
    assert between.connections == 2
    assert client.run(sandbox, ["cat", "run-once"]).stdout == b"ran\n"


def test_a_write_whose_answer_was_lost_is_written_once(sandbox: pb.SandboxStatus, between: relay.Relay) -> None:
    with Client(between.address) as far:
        command = far.exec(sandbox, ["cat"], stdin=True)
        command.write(b"one ")
        between.lose_answer_to(b"lost-part")
        command.write(b"lost-part ")
        between.lose_answer_to(b"last-part")
        command.write(b"last-part", eof=True)
        assert between.connections >= 3
        assert command.complete().stdout == b"one lost-part last-part"


async def test_an_async_write_whose_answer_was_lost_is_written_once(
    sandbox: pb.SandboxStatus, between: relay.Relay
) -> None:
    async with AsyncClient(between.address) as far:
        command = await far.exec(sandbox, ["cat"], stdin=True)
        between.lose_answer_to(b"lost-part")
        await command.write([b"one ", b"lost-part "])
        between.lose_answer_to(b"last-part")
        await command.write(b"last-part", eof=True)
        assert (await command.complete()).stdout == b"one lost-part last-part"


@pytest.mark.slow
def test_chunks_are_written_as_they_come_over_a_connection_that_is_cut(
    sandbox: pb.SandboxStatus, between: relay.Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdin, "IDLE", 0.2)
    with Client(between.address) as far:
        command = far.exec(sandbox, ["cat"], stdin=True)
        seen: list[bytes] = []

        def chunks() -> Iterator[bytes]:
            for number in range(20):
                yield b"%d\n" % number
                if number % 5 == 3:
                    # What was written arrives although the call that wrote it goes on.
                    eventually(lambda number=number: b"".join(seen).endswith(b"%d\n" % number))
                    between.cut()
                if number == 10:
                    time.sleep(0.5)

        writing = threading.Thread(target=command.write, args=(chunks(),), kwargs={"eof": True}, daemon=True)
        writing.start()
        for part in command:
            assert isinstance(part, Output)
            seen.append(part.data)
        writing.join(60 * PATIENCE)
    assert b"".join(seen) == b"".join(b"%d\n" % number for number in range(20))


async def test_asynchronous_chunks_are_written_as_they_come(sandbox: pb.SandboxStatus, service: Service) -> None:
    async with AsyncClient(service.address) as client:
        command = await client.exec(sandbox, ["cat"], stdin=True)
        seen = asyncio.Queue[bytes]()

        async def chunks():  # type: ignore[no-untyped-def]
            yield b"ping"
            assert await seen.get() == b"ping"
            yield b"pong"

        writing = asyncio.create_task(command.write(chunks(), eof=True))
        async for part in command:
            assert isinstance(part, Output)
            seen.put_nowait(part.data)
        await writing
        assert await seen.get() == b"pong"


@pytest.mark.slow
def test_large_input_and_output_pass_whole(sandbox: pb.SandboxStatus, client: Client) -> None:
    data = bytes(range(256)) * 4 * 4096 * 3
    assert client.run(sandbox, ["cat"], input=data, timeout=60 * PATIENCE).stdout == data
    assert client.run(sandbox, ["wc", "-c"], input=data).stdout.split() == [b"%d" % len(data)]


def test_a_command_that_does_not_read_its_input_ends_the_run(sandbox: pb.SandboxStatus, client: Client) -> None:
    result = client.run(sandbox, ["true"], input=bytes(8 << 20), timeout=60 * PATIENCE)
    assert (result.exit_code, result.reason) == (0, "EXIT")


@pytest.mark.slow
def test_a_write_that_takes_long_is_made_again_and_written_once(
    sandbox: pb.SandboxStatus, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdin, "LONGEST", 0.5)
    data = bytes(range(256)) * 4096 * 6
    result = client.run(sandbox, shell("sleep 2; cat"), input=data, timeout=60 * PATIENCE)
    assert result.stdout == data
    command = client.exec(sandbox, ["sleep", "60"], stdin=True)
    with pytest.raises(errors.TimedOut):
        command.write(data, timeout=1.5)
    command.signal("KILL")


def test_what_the_chunks_raise_is_raised_by_the_write(sandbox: pb.SandboxStatus, client: Client) -> None:
    command = client.exec(sandbox, ["cat"], stdin=True)

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise LookupError("the other half")

    with pytest.raises(LookupError):
        command.write(broken())
    command.write(b" whole", eof=True)
    assert command.complete().stdout == b"half whole"
    with pytest.raises(errors.FailedPrecondition) as caught:
        command.write(b"more")
    assert (caught.value.reason, caught.value.facts["accepted_offset"]) == ("STDIN_CLOSED", "10")


@pytest.mark.slow
def test_missing_output_is_said(sandbox: pb.SandboxStatus, client: Client) -> None:
    started = client.exec(sandbox, shell("head -c 30000000 /dev/zero; printf end"))
    started.wait()
    result = started.complete()
    ((begin, length),) = [(gap.offset, gap.length) for gap in result.gaps]
    assert (begin, length + len(result.stdout)) == (0, 30_000_003)
    assert result.truncated
    short = client.run(sandbox, shell("head -c 3000000 /dev/zero; printf end"), most=200_000)
    ((begin, length),) = [(gap.offset, gap.length) for gap in short.gaps]
    assert (begin, length + len(short.stdout)) == (0, 3_000_003)
    assert short.stdout.endswith(b"end")
    assert len(short.stdout) <= 200_000


def test_time_limit_ends_the_command_and_timeout_only_the_call(sandbox: pb.SandboxStatus, client: Client) -> None:
    result = client.run(sandbox, ["sleep", "60"], time_limit=1)
    assert (result.exit_code, result.reason) == (143, "TIMEOUT")
    with pytest.raises(errors.TimedOut):
        client.run(sandbox, ["sleep", "30"], timeout=0.5)
    started = client.exec(sandbox, ["sleep", "60"])
    with pytest.raises(errors.TimedOut):
        started.wait(timeout=0.5)
    started.signal("KILL")
    assert started.wait() == output.Ended(137, 9, "SIGNAL")
    # A signal to a command that has ended does nothing.
    started.signal("TERM")


def test_a_command_is_a_list_of_words(sandbox: pb.SandboxStatus, client: Client) -> None:
    with pytest.raises(TypeError, match="list of words"):
        client.run(sandbox, "ls")
    assert client.run(sandbox, ["no-such-program"]).exit_code == 127


@pytest.mark.slow
def test_commands_outlive_a_kill_of_the_service_and_end_with_their_sandbox(
    make_service: Callable[..., Service],
) -> None:
    service = make_service().start()
    with service.client() as client:
        made = client.create("outlived", command=["sleep", "1000"])
        client.wait_until(made, "RUNNING", timeout=30 * PATIENCE)
        command = client.exec(made, shell(COUNT + "; exec sleep 1000"))
        ended: list[Exec] = []
        parts: list[Output | Gap] = []

        def read() -> None:
            parts.extend(command)
            ended.append(command)

        reading = threading.Thread(target=read, daemon=True)
        reading.start()
        time.sleep(0.5)
        service.kill()
        service.start()
        eventually(lambda: parts != [] and joined([*parts], Channel.STDERR) == NUMBERS, within=30)
        client.stop(made)
        reading.join(30 * PATIENCE)
        assert [one.ended for one in ended] == [output.Ended(None, 0, "SANDBOX_STOPPED")]
        assert joined(parts, Channel.STDOUT) == LINES
        # Nothing here starts a sandbox.
        with pytest.raises(errors.FailedPrecondition) as caught:
            client.run(made, ["true"])
        assert (caught.value.reason, "phase" in caught.value.facts) == ("SANDBOX_NOT_RUNNING", True)
        assert command.wait() == output.Ended(None, 0, "SANDBOX_STOPPED")
