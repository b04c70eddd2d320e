"""A conversation with an exec, over the primitive of the engine.

Whatever arrives was written by the user of the sandbox: numbers, sizes and offsets are checked, and lines are bounded.
"""

import asyncio
import contextlib
import math
import re
from collections.abc import AsyncIterator

from sandbox_server import engines
from sandbox_server.access import sandboxes, scripts, talk_script
from sandbox_server.domain import execs
from sandbox_server.domain.execs import Channel, Exec, ExitReason, Terminal
from sandbox_server.domain.sandbox import Sandbox

CHUNK = 64 * 1024
"""Bytes that are read or written at once."""
TYPED = 256
"""Bytes of input up to which they travel within a line, so that no process is started for them."""
_LINE_MOST = 1000
_SIZE_MOST = 10_000
FIELD_MOST = 64 * 1024
"""More than a path, and what a tool says of it."""
_CAUSES = {b"exit": ExitReason.EXIT, b"timeout": ExitReason.TIMEOUT, b"memory": ExitReason.OUT_OF_MEMORY}
_OFFSET = re.compile(rb"[0-9]{1,15}\Z")


class Cut(Exception):
    """The conversation has ended: the sandbox or its engine is out of reach, or answers what is no answer."""


class Unknown(Exception):
    """There is no such exec."""


class Lines:
    """The output of an entered program, by lines, fields and sizes. Raises `Cut` if it does not come within `within` seconds."""

    def __init__(self, stream: engines.Entered, within: float) -> None:
        self._stream = stream
        self._within = within
        self._rest = b""

    async def send(self, data: engines.Buffer) -> None:
        """Writes to the program."""
        async with self._in_time():
            await self._stream.write(data)

    async def line(self, within: float | None = None) -> list[bytes]:
        """Returns the words of the next line; none at the end. `within`: other seconds for it to come."""
        line = await self._until(b"\n", _LINE_MOST, within)
        return [] if line is None else line.split()

    async def field(self, within: float | None = None, most: int = FIELD_MOST) -> bytes:
        """Returns what is before the next NUL. `within`: other seconds for it to come."""
        field = await self._until(b"\0", most, within)
        if field is None:
            raise Cut("the program in the sandbox has ended")
        return field

    async def fields(self) -> AsyncIterator[list[bytes]]:
        """Yields the fields before the next empty one, as they arrive."""
        ended = False
        while not ended:
            *found, self._rest = self._rest.split(b"\0")
            if ended := b"" in found:
                end = found.index(b"")
                self._rest = b"\0".join((*found[end + 1 :], self._rest))
                found = found[:end]
            yield found
            if not ended:
                async with self._in_time():
                    if len(self._rest) > FIELD_MOST or not await self._more():
                        raise Cut("the sandbox gives an answer that has no end")

    async def some(self, most: int) -> bytes:
        """Returns what has arrived, at most `most` bytes; empty at the end."""
        if not self._rest:
            async with self._in_time():
                return await self._stream.read(most)
        data, self._rest = self._rest[:most], self._rest[most:]
        return data

    async def exactly(self, size: int) -> bytes:
        """Returns the next `size` bytes."""
        async with self._in_time():
            while len(self._rest) < size:
                if not await self._more():
                    raise Cut("the sandbox announced more than it sent")
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    async def _until(self, end: bytes, most: int, within: float | None = None) -> bytes | None:
        """Returns what is before `end`, which is dropped; None if it does not come."""
        async with self._in_time(within):
            while end not in self._rest:
                if len(self._rest) > most:
                    raise Cut("the sandbox gives an answer that is too long")
                if not await self._more():
                    return None
        found, _, self._rest = self._rest.partition(end)
        return found

    async def _more(self) -> bool:
        read = await self._stream.read(CHUNK)
        self._rest += read
        return read != b""

    @contextlib.asynccontextmanager
    async def _in_time(self, within: float | None = None) -> AsyncIterator[None]:
        seconds = self._within if within is None else within
        try:
            async with asyncio.timeout(None if seconds == math.inf else seconds):
                yield
        except TimeoutError:
            raise Cut(f"the sandbox does not answer within {seconds:g} s") from None
        except engines.Unreachable as error:
            raise Cut(str(error)) from None


class Conversation:
    """Asks about one exec. Every method raises `Cut`."""

    def __init__(self, lines: Lines, exec_id: str, incarnation: str) -> None:
        self._lines = lines
        self._exec_id = exec_id
        self._incarnation = incarnation

    async def _ask(self, question: bytes, data: bytes = b"") -> list[bytes]:
        await self._lines.send(question + b"\n" + data)
        answer = await self._lines.line()
        if not answer:
            raise Cut("the program in the sandbox has ended")
        return answer

    async def state(self) -> Exec:
        """Returns the exec as it stands."""
        return stands(self._exec_id, self._incarnation, await self._ask(b"state"))

    async def write(self, offset: int, data: bytes) -> tuple[str, int]:
        """Offers input, and returns `at`, `full` or `ended`, and how many bytes were accepted since the start."""
        question = b"write %d %d" % (offset, len(data))
        if len(data) <= TYPED:
            escapes = b"".join(b"\\%03o" % byte for byte in data)
            question, data = b"type %d %d %s" % (offset, len(data), escapes), b""
        match await self._ask(question, data):
            case [(b"at" | b"full" | b"ended") as outcome, accepted]:
                return outcome.decode(), number(accepted)
        raise nonsense()

    async def end(self, offset: int) -> int:
        """Ends the input at `offset`, unless it has not arrived there. Returns how many bytes were accepted."""
        match await self._ask(b"end %d" % offset):
            case [b"at", accepted]:
                return number(accepted)
        raise nonsense()

    async def resize(self, terminal: Terminal) -> bool:
        """Sets the size of the terminal. Returns False if the exec has none."""
        match await self._ask(b"resize %d %d" % (terminal.rows, terminal.cols)):
            case [(b"sized" | b"none") as outcome]:
                return outcome == b"sized"
        raise nonsense()

    async def signal(self, name: str) -> bool:
        """Sends a signal to the process group. Returns False if the command does not run yet."""
        match await self._ask(b"signal " + name.encode()):
            case [(b"sent" | b"ended" | b"starting") as outcome]:
                return outcome != b"starting"
        raise nonsense()


def stands(exec_id: str, incarnation: str, words: list[bytes]) -> Exec:
    """Returns an exec as it stands. Raises `Cut` if the words do not say it."""
    match words:
        case [b"state", out_kept, out_printed, err_kept, err_printed, accepted, rows, cols, *end]:
            kept = {Channel.STDOUT: number(out_kept), Channel.STDERR: number(err_kept)}
            printed = {Channel.STDOUT: number(out_printed), Channel.STDERR: number(err_printed)}
            if any(kept[one] > printed[one] for one in Channel):
                raise Cut("the sandbox has changed the output of the exec")
            return Exec(
                exec_id,
                incarnation,
                ended(end),
                kept=kept,
                printed=printed,
                accepted=number(accepted),
                terminal=_terminal(number(rows), number(cols)),
            )
    raise nonsense()


def number(word: bytes) -> int:
    """Returns an offset. Raises `Cut` if it is none."""
    if not _OFFSET.match(word):
        raise nonsense()
    return int(word)


def _terminal(rows: int, cols: int) -> Terminal | None:
    """Returns a size, None for zeros. Raises `Cut` if it is none."""
    if max(rows, cols) > _SIZE_MOST or (rows == 0) != (cols == 0):
        raise nonsense()
    return Terminal(rows, cols) if rows else None


def ended(words: list[bytes]) -> execs.End | None:
    """Returns the end of an exec, None while it runs. Raises `Cut` if the words are neither."""
    match words:
        case [b"-"]:
            return None
        case [code, why] if number(code) <= 255 and why in _CAUSES:
            return execs.ended(number(code), _CAUSES[why])
    raise nonsense()


def nonsense() -> Cut:
    """Returns the error for an answer that is none."""
    return Cut("the sandbox gives an answer that is none: it may have changed the files of the exec")


@contextlib.asynccontextmanager
async def run(
    engine: engines.Access, sandbox: Sandbox, incarnation: str, script: bytes, within: float
) -> AsyncIterator[Lines]:
    """Runs a script in a sandbox until the context ends. Raises `Cut` and `errors.FailedPrecondition`."""
    try:
        with sandboxes.refusals():
            async with engine.enter(sandbox, incarnation, scripts.BOOTSTRAP) as stream:
                lines = Lines(stream, within)
                await lines.send(script)
                yield lines
    except engines.Unreachable as error:
        raise Cut(str(error)) from None


@contextlib.asynccontextmanager
async def reached(
    engine: engines.Access, sandbox: Sandbox, incarnation: str, script: bytes, within: float
) -> AsyncIterator[Lines]:
    """Runs a script as `run` does, but raises `errors.Unavailable` where that raises `Cut`."""
    try:
        async with run(engine, sandbox, incarnation, script, within) as lines:
            yield lines
    except Cut as cut:
        raise sandboxes.not_reached(cut) from None


@contextlib.asynccontextmanager
async def begin(
    engine: engines.Access, sandbox: Sandbox, incarnation: str, exec_id: str, within: float
) -> AsyncIterator[Conversation]:
    """Begins a conversation with an exec. Raises `Unknown` and `Cut`."""
    async with opened(engine, sandbox, incarnation, talk_script.talk(exec_id), within) as lines:
        yield Conversation(lines, exec_id, incarnation)


@contextlib.asynccontextmanager
async def opened(
    engine: engines.Access, sandbox: Sandbox, incarnation: str, script: bytes, within: float
) -> AsyncIterator[Lines]:
    """Runs a script about an exec, and finds it. Raises `Unknown` and `Cut`."""
    async with run(engine, sandbox, incarnation, script, within) as lines:
        match await lines.line():
            case [b"here"]:
                yield lines
            case [b"unknown"]:
                raise Unknown
            case _:
                raise Cut("the program in the sandbox has ended")
