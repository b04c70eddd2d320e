"""The contract of StreamLogs. Each engine runs these tests against its own ground, through the fixture `talker`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from sandbox_server.access import logs
from sandbox_server.domain.phase import Phase

from tests.support.logs import Output, Reader, Talker, reading
from tests.support.rig import A
from tests.support.variants import some
from tests.support.waiting import PATIENCE
from tests.support.working import refusal

ODD = b"\xff\xfe \0 \x1b[31m\r x"


@pytest.fixture
async def reader(talker: Talker) -> AsyncIterator[Reader]:
    async with reading(talker.rig) as made:
        yield made


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(15 * PATIENCE):
        while not holds():
            await asyncio.sleep(0.01)


def numbered(first: int, last: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in range(first, last))


async def test_what_is_kept_is_sent_unchanged_and_then_the_stream_ends(talker: Talker, reader: Reader) -> None:
    await talker.say(b"one\n" + ODD + b"\nthree\n")
    found = await reader.read()
    assert found.data == b"one\n" + ODD + b"\nthree\n"
    assert (found.gaps, found.ended) == ([], "")
    again = await reader.read(found)
    assert again.data == b"one\n" + ODD + b"\nthree\n"
    await talker.say(b"four\n")
    assert (await reader.read(again)).data.endswith(b"three\nfour\n")


async def test_followed_stream_goes_on_and_ends_with_the_stop(talker: Talker, reader: Reader) -> None:
    await talker.say(b"before\n")
    found = Output()
    following = asyncio.create_task(reader.read(found, follow=True))
    await until(lambda: found.data == b"before\n")
    await talker.say(b"after\n")
    await until(lambda: found.data == b"before\nafter\n")
    await talker.rig.begin(A, Phase.STOPPED)
    await following
    assert (found.ended, found.gaps) == ("SANDBOX_STOPPED", [])


@pytest.mark.fault(82)
async def test_update_and_crash_end_a_followed_stream_with_their_reasons(talker: Talker, reader: Reader) -> None:
    await talker.say(b"first\n")
    found = Output()
    following = asyncio.create_task(reader.read(found, follow=True))
    await until(lambda: found.data)
    await talker.rig.env(A, NEXT="1")
    await following
    assert found.ended == "POD_REPLACED"
    await talker.rig.settled(A, Phase.RUNNING)
    await talker.say(b"second\n")
    found = Output()
    following = asyncio.create_task(reader.read(found, follow=True))
    await until(lambda: b"second\n" in found.data)
    await talker.crash()
    await following
    assert found.ended == "PROCESS_ENDED"


@pytest.mark.fault(78)
async def test_every_line_arrives_once_through_cuts(talker: Talker, reader: Reader) -> None:
    found = Output()
    written = 0
    while written < 400:
        for _ in range(8):
            await talker.say(numbered(written, written + 5))
            written += 5
        stream = reader.stream(follow=True, after_position=found.position)
        messages = 0
        async for one in stream:
            found.add(one)
            messages += 1
            if messages == 3 or found.data.count(b"\n") == written:
                break
        stream.cancel()
    await reader.read(found)
    assert found.data == numbered(0, written)
    assert found.gaps == []


@pytest.mark.fault(78)
async def test_each_position_resumes_exactly_after_its_part(talker: Talker, reader: Reader) -> None:
    whole = numbered(0, 50) + b"x" * 150_000 + b"\n" + b"y" * 70_000 + b"\nend\n"
    await talker.say(whole)
    found = await reader.read()
    assert found.data == whole
    sent = 0
    for part in found.parts:
        sent += len(part.data)
        rest = Output()
        rest.position = part.position
        assert (await reader.read(rest)).data == whole[sent:]
        assert rest.gaps == []
    assert any(not part.data.endswith(b"\n") for part in found.parts)


@pytest.mark.parametrize("lines", some([0, 1, 3, 9, 100], 0, 2, 4))
async def test_tail_is_the_last_lines_and_follows_from_there(talker: Talker, reader: Reader, lines: int) -> None:
    await talker.say(numbered(0, 9))
    assert (await reader.read(tail_lines=lines)).data == numbered(max(0, 9 - lines), 9)
    found = Output()
    following = asyncio.create_task(reader.read(found, tail_lines=lines, follow=True))
    await until(lambda: found.data or lines == 0)
    await asyncio.sleep(0.3)
    await talker.say(b"next\n")
    await until(lambda: found.data.endswith(b"next\n"))
    following.cancel()
    assert found.data == numbered(max(0, 9 - lines), 9) + b"next\n"
    rest = Output()
    rest.position = found.position
    await talker.say(b"last\n")
    assert (await reader.read(rest)).data == b"last\n"


async def test_since_leaves_out_nothing_that_was_printed_later(talker: Talker, reader: Reader) -> None:
    await talker.say(b"early\n")
    assert (await reader.read(since={"seconds": 1})).data == b"early\n"
    assert (await reader.read(since={"seconds": 4_000_000_000})).data == b""


async def test_silent_stream_has_heartbeats(talker: Talker) -> None:
    talker.rig.settings["heartbeat"] = 0.1
    await talker.rig.restart()
    found = Output()
    async with reading(talker.rig) as later:
        following = asyncio.create_task(later.read(found, follow=True))
        await until(lambda: found.beats > 1)
        following.cancel()


@pytest.mark.parametrize("position", some(["nonsense", "0", "a" * 100, "b" * 300, "é.1.1"], 0, 4))
async def test_broken_position_is_refused(talker: Talker, reader: Reader, position: str) -> None:
    await talker.say(b"some\n")
    found = await reader.read()
    for broken in (position, found.position + "0" * 30, found.position[:-1] + "x"):
        with pytest.raises(grpc.RpcError) as caught:
            [one async for one in reader.stream(after_position=broken)]
        assert refusal(caught.value)[:2] == ("INVALID_ARGUMENT", "INVALID_FIELDS")
        assert "after_position" in str(caught.value)


async def test_bad_fields_and_unknown_sandboxes_are_refused(talker: Talker, reader: Reader) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await reader.read(tail_lines=-1)
    assert refusal(caught.value)[:2] == ("INVALID_ARGUMENT", "INVALID_FIELDS")
    for names in ({"sandbox_id": "unknown"}, {"sandbox_id": A, "namespace": "of-another"}):
        reader.names = names
        with pytest.raises(grpc.RpcError) as caught:
            await reader.read()
        assert refusal(caught.value)[:2] == ("NOT_FOUND", "SANDBOX_NOT_FOUND")


async def test_position_of_a_former_process_is_followed_by_a_gap(talker: Talker, reader: Reader) -> None:
    await talker.say(b"first\n")
    found = await reader.read()
    await talker.rig.env(A, NEXT="1")
    await talker.rig.settled(A, Phase.RUNNING)
    await talker.say(b"second\n")
    await reader.read(found)
    assert found.gaps == [len(b"first\n")]
    assert found.data.endswith(b"second\n")


async def test_output_of_the_process_before_is_sent_on_request(talker: Talker, reader: Reader) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await reader.read(previous=True)
    code, reason, facts = refusal(caught.value)
    assert (code, reason, facts["phase"]) == ("FAILED_PRECONDITION", "NO_OUTPUT_KEPT", "RUNNING")
    await talker.say(b"the last words\n")
    await talker.crash()
    await talker.rig.settled(A, Phase.RUNNING)
    await talker.say(b"another life\n")
    found = await reader.read(previous=True, follow=True)
    assert b"the last words\n" in found.data
    assert b"another life" not in found.data
    assert found.ended == "PROCESS_ENDED"


async def test_more_streams_than_allowed_are_refused(talker: Talker, reader: Reader) -> None:
    await talker.say(b"some\n")
    streams = [reader.stream(follow=True) for _ in range(logs.OF_SANDBOX)]
    for one in streams:
        await one.read()
    with pytest.raises(grpc.RpcError) as caught:
        await reader.read()
    code, reason, facts = refusal(caught.value)
    assert (code, reason, facts["streams"]) == ("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS", "16")
    streams.pop().cancel()
    async with asyncio.timeout(10 * PATIENCE):
        while True:
            try:
                assert (await reader.read()).data == b"some\n"
                break
            except grpc.RpcError:
                await asyncio.sleep(0.02)
    for one in streams:
        one.cancel()
