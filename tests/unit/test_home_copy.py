"""A copy whose programs say more than fits into a pipe, or into the memory of the service."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from sandbox_server.engines.kubernetes import home_copy, streams
from sandbox_server.engines.kubernetes.home_copy import NotMoved, Side

ENTRY = b"r\0f\x00644\x000\x000\x001\x001.0\x001.0\x001:1\x001\0\0name\0"


class Program:
    """Prints parts; the last ones of one that `awaits` to be read are taken before it takes what is written."""

    def __init__(self, *parts: bytes, exit_code: int = 0, awaits: bool = False) -> None:
        self._parts = list(parts)
        self._read = asyncio.Event()
        if not awaits:
            self._read.set()
        causes = [streams.Cause("ExitCode", str(exit_code))] if exit_code else []
        self.end = streams.End(details=streams.Details(causes=causes))

    async def read(self, _most: int) -> bytes:
        if not self._parts:
            self._read.set()
            return b""
        return self._parts.pop(0)

    async def write(self, _data: bytes) -> None:
        await self._read.wait()

    async def close(self) -> None:
        pass


def side(**programs: Program) -> Side:
    """Runs the program whose word is in the script."""

    @contextlib.asynccontextmanager
    async def enter(words: tuple[str, ...]) -> AsyncIterator[streams.Stream]:
        script = words[2]
        known = {"able": "--version", "lists": "-xdev ! -type s", "sends": "tar --format", "receives": "tar -xpf"}
        yield cast(streams.Stream, next(made for name, made in programs.items() if known[name] in script))

    return Side(enter)


async def test_what_the_receiver_says_of_each_file_is_read_while_files_are_sent() -> None:
    source = side(able=Program(b"done"), lists=Program(ENTRY, b"done"), sends=Program(b"archive", b"done"))
    says: Any = [b"tar: name: No space left on device\n"] * 1000
    target = side(lists=Program(b"done"), receives=Program(*says, exit_code=2, awaits=True))
    async with asyncio.timeout(10):
        with pytest.raises(NotMoved, match="No space left") as refused:
            await home_copy.copy(source, target, lambda _said: None)
    assert len(str(refused.value)) < 700


async def test_a_home_of_too_many_files_is_not_listed_to_the_end() -> None:
    parts: Any = [b"\0" * (1 << 20)] * (home_copy.LISTED_MOST >> 20)
    source = side(able=Program(b"done"), lists=Program(*parts, b"\0", b"done"))
    with pytest.raises(NotMoved, match="too many files"):
        await home_copy.copy(source, source, lambda _said: None)
