"""StreamLogs on the Kubernetes engine: the contract, and what depends on how a kubelet keeps and sends logs."""

import asyncio
import dataclasses
from typing import Any

import grpc
import pytest
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase

from tests.contract.logs import *  # noqa: F403 - the tests themselves
from tests.contract.logs import numbered, until
from tests.support.logs import Output, Reader
from tests.support.rig import FAST, A, Rig
from tests.support.scripted import PODS
from tests.support.scripted_api import ScriptedApi
from tests.support.working import refusal

SECOND = 10**9
BEGIN = 1_700_000_000 * SECOND


class ScriptedTalker:
    def __init__(self, rig: Rig, api: ScriptedApi) -> None:
        self.rig = rig
        self.api = api

    @property
    def pod(self) -> dict[str, Any]:
        return self.api.objects[PODS][f"{A}-0"]

    async def say(self, data: bytes, at: int | None = None) -> None:
        self.api.logs.of(self.pod).print(data, at)

    async def crash(self) -> None:
        self.api.restart_container("default", f"{A}-0")


@pytest.fixture
def pace() -> Pace:
    return dataclasses.replace(FAST, access_within=1.0)


@pytest.fixture
async def talker(rig: Rig, api: ScriptedApi) -> ScriptedTalker:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    return ScriptedTalker(rig, api)


@pytest.mark.slow
async def test_lines_have_their_times(talker: ScriptedTalker, reader: Reader) -> None:
    await talker.say(b"one\n", BEGIN + 123_456_789)
    await talker.say(b"two\n", BEGIN + SECOND)
    found = await reader.read()
    assert [(part.data, part.at.seconds, part.at.nanos) for part in found.parts] == [
        (b"one\n", BEGIN // SECOND, 123_456_000),
        (b"two\n", BEGIN // SECOND + 1, 0),
    ]


@pytest.mark.fault(78)
@pytest.mark.parametrize("cut", [*range(1, 40), 100, 1000])
@pytest.mark.slow
async def test_stream_cut_at_any_byte_resumes_with_every_line_once(
    talker: ScriptedTalker, reader: Reader, cut: int
) -> None:
    for number in range(12):
        # Several lines of one time, and some out of order.
        await talker.say(b"line %d\n" % number, BEGIN + (number // 5) * SECOND - (number % 3 == 2) * SECOND // 2)
    talker.api.logs.cut_after = [cut, cut, cut]
    found = Output()
    while True:
        try:
            await reader.read(found)
            break
        except grpc.RpcError as error:
            assert refusal(error)[:2] == ("UNAVAILABLE", "SANDBOX_NOT_REACHED")
    assert found.data == b"".join(b"line %d\n" % number for number in range(12))
    assert found.gaps == []


@pytest.mark.fault(78)
@pytest.mark.slow
async def test_many_lines_of_one_second_resume_exactly(talker: ScriptedTalker, reader: Reader) -> None:
    for number in range(3000):
        await talker.say(b"%d\n" % number, BEGIN + number // 50)
    found = Output()
    talker.api.logs.cut_after = [50_000, 90_000]
    for _ in range(3):
        try:
            await reader.read(found)
        except grpc.RpcError:
            continue
    assert found.data == b"".join(b"%d\n" % number for number in range(3000))
    assert found.gaps == []


@pytest.mark.fault(78)
async def test_line_in_parts_resumes_within_it(talker: ScriptedTalker, reader: Reader) -> None:
    line = bytes(range(32, 127)) * 3000 + b"\n"
    await talker.say(b"before\n" + line + b"after\n")
    talker.api.logs.cut_after = [100_000, 200_000]
    found = Output()
    for _ in range(3):
        try:
            await reader.read(found)
        except grpc.RpcError:
            continue
    assert found.data == b"before\n" + line + b"after\n"
    assert found.gaps == []


@pytest.mark.fault(79)
@pytest.mark.slow
async def test_rotated_position_is_followed_by_a_gap_and_what_is_kept(talker: ScriptedTalker, reader: Reader) -> None:
    await talker.say(numbered(0, 5), BEGIN)
    found = await reader.read()
    await talker.say(numbered(5, 7), BEGIN + 3 * SECOND)
    talker.api.logs.rotate(talker.pod)
    await talker.say(numbered(7, 9), BEGIN + 5 * SECOND)
    await reader.read(found)
    assert found.data == numbered(0, 5) + numbered(7, 9)
    assert found.gaps == [len(numbered(0, 5))]


@pytest.mark.slow
async def test_follower_of_a_position_in_an_emptied_file_gets_a_gap(talker: ScriptedTalker, reader: Reader) -> None:
    await talker.say(numbered(0, 5), BEGIN)
    found = await reader.read()
    talker.api.logs.rotate(talker.pod)
    following = asyncio.create_task(reader.read(found, follow=True))
    await until(lambda: found.gaps)
    await talker.say(b"next\n", BEGIN + SECOND)
    await until(lambda: found.data.endswith(b"next\n"))
    following.cancel()


@pytest.mark.fault(79)
@pytest.mark.slow
async def test_follower_reads_on_through_a_rotation(talker: ScriptedTalker, reader: Reader) -> None:
    found = Output()
    following = asyncio.create_task(reader.read(found, follow=True))
    for number in range(5):
        await talker.say(b"%d\n" % number)
        await until(lambda number=number: found.data.endswith(b"%d\n" % number))
        talker.api.logs.rotate(talker.pod)
    following.cancel()
    assert found.data == b"0\n1\n2\n3\n4\n"
    assert found.gaps == []


@pytest.mark.slow
async def test_silent_stream_is_opened_again_where_it_was(talker: ScriptedTalker, reader: Reader) -> None:
    await talker.say(b"one\n")
    found = Output()
    following = asyncio.create_task(reader.read(found, follow=True))
    await until(lambda: found.data)
    # The setting of these tests for the longest silence is one second.
    before = len(talker.api.logs.asked)
    await until(lambda: len(talker.api.logs.asked) > before + 1)
    await talker.say(b"two\n")
    await until(lambda: found.data == b"one\ntwo\n")
    following.cancel()
    assert found.gaps == []


@pytest.mark.fault(81)
@pytest.mark.slow
async def test_clock_that_was_set_back_costs_no_line(talker: ScriptedTalker, reader: Reader) -> None:
    await talker.say(b"late\n", BEGIN)
    await talker.say(b"early\n", BEGIN - 1000 * SECOND)
    found = await reader.read()
    assert found.data == b"late\nearly\n"
    await talker.say(b"next\n", BEGIN - 999 * SECOND)
    await reader.read(found)
    assert found.data == b"late\nearly\nnext\n"
    assert found.gaps == []


@pytest.mark.slow
async def test_unfinished_line_of_a_container_that_ended_is_sent(talker: ScriptedTalker, reader: Reader) -> None:
    await talker.say(b"one\nno end")
    found = Output()
    following = asyncio.create_task(reader.read(found, follow=True))
    await until(lambda: found.data == b"one\n")
    await talker.crash()
    await following
    assert (found.data, found.ended) == (b"one\nno end", "PROCESS_ENDED")


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.slow
async def test_service_without_the_right_says_so(talker: ScriptedTalker, reader: Reader, follow: bool) -> None:
    talker.api.access = False
    with pytest.raises(grpc.RpcError) as caught:
        await reader.read(follow=follow)
    assert refusal(caught.value)[:2] == ("FAILED_PRECONDITION", "ACCESS_NOT_GRANTED")


@pytest.mark.slow
async def test_stopped_sandbox_has_no_output(talker: ScriptedTalker, reader: Reader) -> None:
    await talker.say(b"one\n")
    await talker.rig.begin(A, Phase.STOPPED)
    await talker.rig.settled(A, Phase.STOPPED)
    with pytest.raises(grpc.RpcError) as caught:
        await reader.read()
    code, reason, facts = refusal(caught.value)
    assert (code, reason, facts["phase"]) == ("FAILED_PRECONDITION", "NO_OUTPUT_KEPT", "STOPPED")


@pytest.mark.slow
async def test_sandbox_that_crashes_again_and_again_has_its_last_words(
    talker: ScriptedTalker, reader: Reader, api: ScriptedApi
) -> None:
    api.crashing.add(A)
    api.control("default", A)
    await talker.rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    await talker.say(b"last words\n")
    found = await reader.read(follow=True)
    assert (found.data, found.ended) == (b"last words\n", "PROCESS_ENDED")
    with pytest.raises(grpc.RpcError) as caught:
        await reader.read(previous=True)
    assert refusal(caught.value)[1] == "NO_OUTPUT_KEPT"
