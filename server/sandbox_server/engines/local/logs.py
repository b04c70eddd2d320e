"""Reads the logs of a sandbox that `output` writes, from a position on.

A position names the log, a file of it and an offset in that file. The sandbox decides what is in the files, and without
isolation which files there are: sizes are bounded, and only regular files are opened.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from sandbox_server import engines
from sandbox_server.domain.logs import Asked, Ended, EndReason, Gap, Lines, Part
from sandbox_server.domain.pace import Pace
from sandbox_server.engines.local import log_begins, log_files, output
from sandbox_server.engines.local.log_files import File
from sandbox_server.engines.local.log_times import Place


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
        begin = await asyncio.to_thread(reader.begin, chosen, asked)
        if begin is None or not reader.seek(begin):
            yield Gap()
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
        return log_files.kept(path) if path is not None else []

    def begin(self, log: Path, asked: Asked) -> Place | None:
        """Returns where to begin, None if that is no longer kept. `log` is where the log is. Raises `engines.BadPosition`."""
        with log_files.opened(self.kept()) as files:
            if not files:
                return None
            if asked.after:
                return log_begins.resumed(files, self.identity, asked.after)
            return log_begins.begin(files, log, asked)

    def seek(self, place: Place) -> bool:
        """Goes on from a place. Returns False if its file is no longer kept: it goes on from the next one."""
        if not self._open(place.number) or self.file.number != place.number:
            return False
        self._offset = place.offset
        return True

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
