"""Sends the content of a file to the program that writes it."""

from collections.abc import AsyncIterator

from isal import isal_zlib

from sandbox_server import engines
from sandbox_server.access import file_scripts
from sandbox_server.access.file_answers import Answers
from sandbox_server.domain import errors

FRAME = 2 << 20
"""Bytes that are collected before they are sent, where the size of the content is not known: each frame costs processes."""
FRAME_MOST = 64 << 20
"""Bytes of a frame where the size is known, so that nothing is collected. A program that has failed says so after a frame."""


class Content:
    """Sends content in frames, each after its length. `size` and `checksum` are of what was sent.

    A frame is not sent before the last one was taken, since a tool may read ahead. A program that has failed says so instead.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._left = 0
        self.size = 0
        self.checksum = 0

    async def send(self, parts: AsyncIterator[engines.Buffer], expected: int | None) -> None:
        """Sends everything. Raises `errors.Invalid` if it has not the size that is `expected`, if that is known."""
        if expected is None:
            async for frame in _frames(parts):
                await self._begin(len(frame))
                await self._send(frame)
        else:
            async for part in parts:
                await self._send_announced(part, expected)
        if self.size != (self.size if expected is None else expected):
            raise _other_size()
        if self.size:
            await self._answers.word(b"taken")

    async def _send_announced(self, part: engines.Buffer, expected: int) -> None:
        rest = part
        while rest:
            if not self._left:
                if self.size == expected:
                    raise _other_size()
                await self._begin(_length(expected - self.size))
            most = self._left
            await self._send(rest[:most])
            rest = rest[most:]

    async def _begin(self, length: int) -> None:
        if self.size:
            await self._answers.word(b"taken")
        await self._answers.lines.send(b"%d\n" % length)
        self._left = length

    async def _send(self, part: engines.Buffer) -> None:
        self._left -= len(part)
        self.size += len(part)
        # That of `zlib` takes four times as long: a quarter of what a large write computes in this process.
        self.checksum = isal_zlib.crc32(part, self.checksum)
        await self._answers.lines.send(part)


async def _frames(parts: AsyncIterator[engines.Buffer]) -> AsyncIterator[bytearray]:
    """Yields what has arrived, `FRAME` bytes or a little more at once."""
    collected = bytearray()
    async for part in parts:
        collected += part
        if len(collected) >= FRAME:
            yield collected
            collected = bytearray()
    if collected:
        yield collected


def _length(left: int) -> int:
    """Returns the bytes of the next frame: whole blocks, or what follows the last of them. A frame of anything else is one
    block, which would be held in the memory of the sandbox."""
    whole = min(FRAME_MOST, left) // file_scripts.BLOCK * file_scripts.BLOCK
    return whole or left


def _other_size() -> errors.Invalid:
    return errors.Invalid((errors.Violation("size", "must be that of the content"),))
