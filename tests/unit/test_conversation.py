"""What a sandbox answers is checked: its user can change every file of an exec."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sandbox_server.access import conversation
from sandbox_server.access.conversation import Conversation, Cut
from sandbox_server.domain.execs import Channel, End, ExitReason


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


@pytest.mark.parametrize("said", [b"data 11\n12345678901", b"data -1\n", b"data 4\n123", b"data x\n", b"more\n"])
async def test_output_of_another_size_than_announced_or_asked_for_cuts_the_conversation(said: bytes) -> None:
    with pytest.raises(Cut):
        async with begun(said) as talk:
            await talk.read(Channel.STDOUT, 0, 10)


@pytest.mark.parametrize("said", [b"", b"state 0 0", b"data 4\n123"])
async def test_answer_that_does_not_come_cuts_the_conversation(said: bytes) -> None:
    with pytest.raises(Cut, match=r"does not answer within 0.1 s"):
        async with begun(said, ends=False) as talk:
            await (talk.read(Channel.STDOUT, 0, 10) if b"data" in said else talk.state())
