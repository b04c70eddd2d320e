"""Reads the logs of a sandbox that `output` writes, from a position on.

A position names the log, a file of it and an offset in that file. The sandbox decides what is in the files, and without
isolation which files there are: sizes are bounded, and only regular files are opened.
"""

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sandbox_server import engines
from sandbox_server.domain.logs import Asked, Ended, EndReason, Gap, Lines, Part
from sandbox_server.domain.pace import Pace
from sandbox_server.engines.local import log_times, output
from sandbox_server.engines.local.log_times import Place

_POSITION = re.compile(rf"([0-9a-f]{{{output.ID}}})\.([1-9][0-9]{{0,8}})\.(0|[1-9][0-9]{{0,11}})\Z")
_TRIES = 100
"""How often the files are looked for while they are renamed: each look takes far less time than to fill a file."""


@dataclass(slots=True)
class File:
    """An open file of a log. `complete`: nothing more is written to it."""

    number: int
    descriptor: int
    complete: bool

    @property
    def size(self) -> int:
        """Its size now; a sandbox without isolation may have made it larger than it is."""
        return min(os.fstat(self.descriptor).st_size, output.MOST)


async def read(
    log: Path, asked: Asked, pace: Pace, prints: Callable[[], bool], reason: Callable[[], EndReason]
) -> AsyncGenerator[Part, None]:
    """Yields the parts of a log, as `engines.Access.logs` says.

    `prints` says whether something may still be written to `log`, and `reason` why its process has ended.
    """
    chosen = output.former(log) if asked.previous else log
    identity = output.identity(chosen)
    if not identity:
        raise engines.NoOutput("no such process has printed anything")
    reader = _Reader(log, identity, prints)
    try:
        begin = _resumed(asked.after, reader) if asked.after else None
        if begin is None:
            if asked.after:
                yield Gap()
                begin = Place(reader.file.number, 0)
            else:
                begin = await asyncio.to_thread(_begin, reader, chosen, asked)
        reader.seek(begin)
        async for part in _parts(reader, asked.follow, pace):
            yield part
    finally:
        reader.close()
    if asked.follow:
        yield Ended(EndReason.PROCESS_ENDED if asked.previous else reason())


async def _parts(reader: "_Reader", follow: bool, pace: Pace) -> AsyncGenerator[Part, None]:
    """Yields what follows: without `follow` what there is, else until the log is complete."""
    delay = pace.access_look_first
    while True:
        # Asked before the read: what is read after the last write is everything.
        ended = not follow or reader.ended
        part = reader.part(unfinished=ended or delay >= pace.access_look_most)
        if part is not None:
            yield part
            delay = pace.access_look_first
            # A log that is written without end must not keep the loop.
            await asyncio.sleep(0)
        elif ended:
            if follow and reader.removed:
                yield Gap()
            return
        else:
            await asyncio.sleep(delay)
            delay = min(delay * 2, pace.access_look_most)


class _Reader:
    """Reads the log `identity`, which may become the former one meanwhile.

    `file` is open: it can be read to its end however it is renamed.
    """

    def __init__(self, log: Path, identity: str, prints: Callable[[], bool]) -> None:
        """Opens the first file that is kept. Raises `engines.NoOutput`."""
        self._log = log
        self._prints = prints
        self.identity = identity
        kept = self.kept()
        if not kept:
            raise engines.NoOutput("the log cannot be read")
        self.file, *others = kept
        for one in others:
            os.close(one.descriptor)
        self._offset = 0

    @property
    def _path(self) -> Path | None:
        """Where the log now is; None if it was removed."""
        for one in (self._log, output.former(self._log)):
            if output.identity(one) == self.identity:
                return one
        return None

    @property
    def removed(self) -> bool:
        """Whether the log is no longer kept: what was printed after the open file is not known."""
        return self._path is None

    @property
    def ended(self) -> bool:
        """Whether nothing more is written to the log."""
        return self._path != self._log or not self._prints()

    def kept(self) -> list[File]:
        """Returns the files that are kept, in order, open. The caller closes them."""
        path = self._path
        if path is None:
            return []
        for _ in range(_TRIES):
            last = output.numbers(path)[-1:]
            found: list[File] = []
            for number in last:
                with contextlib.suppress(OSError):
                    found.append(File(number, output.opened(output.numbered(path, number)), complete=True))
            number = last[0] + 1 if last else 1
            # Missing between the rename of the last file and its first byte.
            with contextlib.suppress(OSError):
                found.append(File(number, output.opened(path), complete=False))
            if output.numbers(path)[-1:] == last:
                return found
            for one in found:
                os.close(one.descriptor)
        raise engines.Unreachable("the log is written too fast to be read")

    def seek(self, place: Place) -> None:
        """Goes on from a place in a file that is kept."""
        self._open(place.number)
        self._offset = place.offset

    def _open(self, number: int) -> bool:
        """Opens a file by its number, or the first one after it that is kept. Returns False if there is none."""
        kept = self.kept()
        chosen = next((one for one in kept if one.number >= number), None)
        for one in kept:
            if one is not chosen:
                os.close(one.descriptor)
        if chosen is None:
            return False
        os.close(self.file.descriptor)
        self.file, self._offset = chosen, 0
        return True

    def part(self, *, unfinished: bool) -> Part | None:
        """Returns the next part, None if there is none yet. A line without its end is a part if it is `unfinished`, or long."""
        if not self.file.complete:
            # Asked before the read: a file that is complete has no other bytes than those that are then read.
            path = self._path
            last = output.numbers(path)[-1:] if path is not None else []
            complete = bool(last) and last[0] >= self.file.number
        else:
            complete = True
        size = min(engines.LOG_PART, output.MOST - self._offset)
        data = os.pread(self.file.descriptor, size, self._offset) if size > 0 else b""
        if data:
            end = data.rfind(b"\n") + 1
            if end == 0 and (unfinished or complete or len(data) == size):
                end = len(data)
            if end == 0:
                return None
            self._offset += end
            return Lines(data[:end], f"{self.identity}.{self.file.number}.{self._offset}")
        wanted = self.file.number + 1
        if complete and self._open(wanted):
            return Gap() if self.file.number != wanted else self.part(unfinished=unfinished)
        return None

    def close(self) -> None:
        """Closes the file."""
        os.close(self.file.descriptor)


def _resumed(after: str, reader: _Reader) -> Place | None:
    """Returns the place of a position, None if it is no longer kept. Raises `engines.BadPosition`."""
    found = _POSITION.match(after)
    if found is None:
        raise engines.BadPosition
    place = Place(int(found[2]), int(found[3]))
    if found[1] != reader.identity or found[1] == output.UNKNOWN:
        return None
    kept = reader.kept()
    try:
        for one in kept:
            if one.number == place.number and place.offset <= one.size:
                return place
        if any(place.number < one.number for one in kept):
            return None
    finally:
        for one in kept:
            os.close(one.descriptor)
    raise engines.BadPosition


def _begin(reader: _Reader, log: Path, asked: Asked) -> Place:
    """Returns where to begin so that what was printed since a time, and so many lines, are sent."""
    kept = reader.kept()
    try:
        if not kept:
            return Place(1, 0)
        first = Place(kept[0].number, 0)
        end = Place(kept[-1].number, kept[-1].size)
        if asked.since is not None:
            first = max(first, _since(log, asked.since.timestamp(), kept))
        if asked.tail_lines is not None:
            first = max(first, end if asked.tail_lines == 0 else _tail(kept, asked.tail_lines))
        return first
    finally:
        for one in kept:
            os.close(one.descriptor)


def _since(log: Path, since: float, files: list[File]) -> Place:
    """Returns the beginning of the line at which the log ended at a time, or of the first line that may have followed."""
    marked = log_times.place(log, since) or Place(0, 0)
    for one in files:
        if os.fstat(one.descriptor).st_mtime < since:
            marked = max(marked, Place(one.number, one.size))
    for one in files:
        if one.number == marked.number:
            begin = max(0, marked.offset - engines.LOG_PART)
            before = os.pread(one.descriptor, marked.offset - begin, begin)
            return Place(one.number, begin + before.rfind(b"\n") + 1)
    return Place(files[0].number, 0)


def _tail(files: list[File], lines: int) -> Place:
    """Returns where the last lines begin."""
    ends = 0
    for number, offset, block in _backwards(files):
        end = len(block)
        while (end := block.rfind(b"\n", 0, end)) >= 0:
            ends += 1
            if ends == lines:
                return Place(number, offset + end + 1)
    return Place(files[0].number, 0)


def _backwards(files: list[File]) -> Iterator[tuple[int, int, bytes]]:
    """Yields the blocks of files from the last one on, each with its place, but for an end of a line at the very end."""
    last = True
    for one in reversed(files):
        end = one.size
        while end > 0:
            begin = max(0, end - engines.LOG_PART)
            block = os.pread(one.descriptor, end - begin, begin)
            yield one.number, begin, block.removesuffix(b"\n") if last else block
            last = False
            end = begin
