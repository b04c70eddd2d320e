"""Where the stream of a log begins."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from sandbox_server import engines
from sandbox_server.domain.logs import Asked
from sandbox_server.engines.local import log_times, output
from sandbox_server.engines.local.log_files import File
from sandbox_server.engines.local.log_times import Place

_POSITION = re.compile(rf"([0-9a-f]{{{output.ID}}})\.([1-9][0-9]{{0,8}})\.(0|[1-9][0-9]{{0,11}})\Z")


def begin(files: list[File], log: Path, asked: Asked) -> Place:
    """Returns where to begin in the files of `log`, so that what was printed since a time, and so many lines, are sent."""
    first = Place(files[0].number, 0)
    end = Place(files[-1].number, files[-1].size)
    if asked.since is not None:
        first = max(first, _since(log, asked.since.timestamp(), files))
    if asked.tail_lines is not None:
        first = max(first, end if asked.tail_lines == 0 else _tail(files, asked.tail_lines))
    return first


def resumed(files: list[File], identity: str, position: str) -> Place | None:
    """Returns the place of a position in the log `identity`, None if it is no longer kept or of another log.

    Raises `engines.BadPosition`.
    """
    found = _POSITION.match(position)
    if found is None:
        raise engines.BadPosition
    place = Place(int(found[2]), int(found[3]))
    if found[1] != identity or identity == output.UNKNOWN or place.number < files[0].number:
        return None
    if not any(one.number == place.number and place.offset <= one.size for one in files):
        raise engines.BadPosition
    return place


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
