"""What a sandbox answers is checked: its user can change every file of an exec."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sandbox_server.access import conversation, following
from sandbox_server.access.conversation import Conversation, Cut
from sandbox_server.access.following import Following, Over, Part
from sandbox_server.domain.execs import Channel, End, Exec, ExitReason
from sandbox_server.domain.pace import Pace

PACE = Pace(access_within=0.1, access_look_most=0.01, heartbeat=0.1)


class Said:
    """An entered program that says something, and then nothing more, or ends."""

    def __init__(self, said: bytes, ends: bool) -> None:
        self._said = said
        self._ends = ends

    async def write(self, data: bytes) -> None:
        pass

    async def read(self, most: int) -> bytes:
        if not self._said and not self._ends:
            await asyncio.sleep(60)
        read, self._said = self._said[:most], self._said[most:]
        return read


class Engine:
    def __init__(self, said: bytes, ends: bool = True) -> None:
        self._said = Said(said, ends)

    @asynccontextmanager
    async def enter(self, _sandbox: Any, _incarnation: str, _program: Sequence[str]) -> AsyncIterator[Said]:
        yield self._said


@asynccontextmanager
async def begun(said: bytes, ends: bool = True) -> AsyncIterator[Conversation]:
    engine: Any = Engine(b"here\n" + said, ends)
    sandbox: Any = None
    async with conversation.begin(engine, sandbox, "1", "a", 0.1) as talk:
        yield talk


async def test_state_has_offsets_and_the_end() -> None:
    async with begun(b"state 5 9 0 3 7 0 0 143 timeout\n") as talk:
        found = await talk.state()
    assert (found.kept[Channel.STDOUT], found.printed, found.accepted) == (5, {Channel.STDOUT: 9, Channel.STDERR: 3}, 7)
    assert found.end == End(143, 15, ExitReason.TIMEOUT)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"state\n",
        b"state 0 0 0 0 0 0 0\n",
        b"state 0 -1 0 0 0 0 0 -\n",
        b"state 0 0x9 0 0 0 0 0 -\n",
        b"state 0 9999999999999999 0 0 0 0 0 -\n",
        b"state 9 3 0 0 0 0 0 -\n",
        b"state 0 0 0 0 0 24 0 -\n",
        b"state 0 0 0 0 0 24 10001 -\n",
        b"state 0 0 0 0 0 0 0 256 exit\n",
        b"state 0 0 0 0 0 0 0 0 whatever\n",
        b"x" * 100_000 + b"\n",
        b"\xff\xfe\n",
    ],
)
async def test_state_that_is_none_cuts_the_conversation(said: bytes) -> None:
    with pytest.raises(Cut):
        async with begun(said) as talk:
            await talk.state()


@asynccontextmanager
async def followed(said: bytes, ends: bool = True) -> AsyncIterator[Following]:
    engine: Any = Engine(b"here\n" + said, ends)
    sandbox: Any = None
    async with following.begin(engine, sandbox, "1", "a", dict.fromkeys(Channel, 0), PACE) as found:
        yield found


async def came(found: Following) -> object:
    while (one := await found.next()) is None:
        pass
    return one


async def test_output_comes_with_its_offset_and_then_the_end() -> None:
    async with followed(b"o 5 4\n12\n4e 0 1\nxover\n") as found:
        assert await came(found) == Part(Channel.STDOUT, 5, b"12\n4")
        assert await came(found) == Part(Channel.STDERR, 0, b"x")
        assert isinstance(await came(found), Over)


@pytest.mark.parametrize("said", [b"o 0 65537\n", b"o -1 1\nx", b"o 0 4\n123", b"o 0 x\n", b"more\n", b"x 0 1\nx", b""])
async def test_output_of_another_size_than_announced_or_allowed_cuts_the_conversation(said: bytes) -> None:
    with pytest.raises(Cut):
        async with followed(said) as found:
            await came(found)


@pytest.mark.parametrize("said", [b"", b"o 0 4\n123"])
async def test_sign_of_life_that_does_not_come_cuts_the_conversation(said: bytes) -> None:
    with pytest.raises(Cut, match=r"does not answer within 0.1 s"):
        async with followed(said, ends=False) as found:
            await came(found)


async def test_sign_of_life_is_asked_for_after_a_silence() -> None:
    async with followed(b"state 0 0 0 0 0 0 0 -\n", ends=False) as found:
        first = await came(found)
        with pytest.raises(Cut, match=r"does not answer within 0.1 s"):
            await came(found)
    assert isinstance(first, Exec)


@pytest.mark.parametrize("said", [b"", b"state 0 0"])
async def test_answer_that_does_not_come_cuts_the_conversation(said: bytes) -> None:
    with pytest.raises(Cut, match=r"does not answer within 0.1 s"):
        async with begun(said, ends=False) as talk:
            await talk.state()
