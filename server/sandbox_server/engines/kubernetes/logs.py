"""Reads the log of the sandbox's container, which the API server has from its kubelet."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import NamedTuple

import aiohttp

from sandbox_server import engines
from sandbox_server.domain.logs import Asked, Ended, EndReason, Gap, Lines, Part
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.kubernetes import (
    client,
    containers,
    entrance,
    log_lines,
    log_places,
    pods,
    resources,
    rights,
)
from sandbox_server.engines.kubernetes.log_begins import After, Begin, From, Later, Lost, Since
from sandbox_server.engines.kubernetes.log_places import Count, Place
from sandbox_server.engines.kubernetes.objects import Object
from sandbox_server.engines.kubernetes.resources import Kind


class Container(NamedTuple):
    """A start of the container: its name in positions, and whether it runs."""

    name: str
    runs: bool


class Chunk(NamedTuple):
    """Lines of one second, or a part of a long line. `time` is that of the last line, `place` what follows it."""

    data: bytes
    time: int
    place: Place


async def read(api: client.Client, sandbox: Sandbox, asked: Asked, pace: Pace) -> AsyncGenerator[Part, None]:
    """See `engines.Access.logs`."""
    name, place = log_places.parsed(asked.after) if asked.after else ("", None)
    container = _container(await entrance.find_pod(api, sandbox), asked.previous)
    reading = _Reading(api, sandbox, asked, pace, container)
    begin: Begin
    if place is None:
        begin = await reading.begin()
    elif name == container.name:
        begin = After(place)
    else:
        yield Gap()
        begin = Since()
    async with contextlib.aclosing(reading.parts(begin)) as parts:
        async for part in parts:
            yield part


class _Reading:
    """Reads the log of one start of the container."""

    def __init__(self, api: client.Client, sandbox: Sandbox, asked: Asked, pace: Pace, container: Container) -> None:
        self._api = api
        self._sandbox = sandbox
        self._asked = asked
        self._pace = pace
        self._container = container

    async def begin(self) -> Begin:
        """Returns where to begin without a position."""
        lines = self._asked.tail_lines
        begin = Since() if self._asked.since is None else Since(int(self._asked.since.timestamp() * 1_000_000) * 1000)
        if lines is None:
            return begin
        # The kubelet finds the line, and the stream then begins at its second: a place counts all lines of a second.
        async with self._opened(begin, follow=False, tailLines=str(max(lines, 1))) as content:
            head = b""
            while len(head) < log_lines.TIME_MOST and (data := await content.read(log_lines.TIME_MOST)):
                head += data
        time, _ = log_lines.parsed(head)
        return begin if time is None else From(max(time, begin.time), exclusive=lines == 0)

    async def parts(self, begin: Begin) -> AsyncGenerator[Part, None]:
        """Yields the parts from `begin` on. A stream that is silent for long is opened again: it may be dead."""
        while True:
            patience = self._pace.access_end_shown_within
            try:
                async with contextlib.aclosing(self._stream(begin.anew())) as chunks:
                    async for chunk in chunks:
                        begin = After(chunk.place)
                        moment = log_lines.moment(chunk.time)
                        yield Lines(chunk.data, chunk.place.named(self._container.name), moment)
            except Lost as lost:
                yield Gap()
                begin = Later(lost.time)
                continue
            except client.Silent:
                if not self._asked.follow:
                    raise
                patience = 0.0
            if not self._asked.follow:
                return
            reason = await self._ended(patience)
            if reason is not None:
                yield Ended(reason)
                return

    async def _stream(self, begin: Begin) -> AsyncGenerator[Chunk, None]:
        """Yields what one stream has. Raises `Lost`."""
        lines = _Lines(begin)
        async with self._opened(begin, follow=self._asked.follow) as content:
            while data := await self._next(content, begin):
                for chunk in lines.feed(data):
                    yield chunk
        for chunk in lines.end():
            yield chunk
        begin.end()

    async def _next(self, content: aiohttp.StreamReader, begin: Begin) -> bytes:
        """Returns what has arrived, empty at the end. Lines that are looked for are there at once, or not at all."""
        if begin.begun:
            return await content.readany()
        try:
            async with asyncio.timeout(self._pace.access_within):
                return await content.readany()
        except TimeoutError:
            begin.end()
            raise client.Silent("the log ends before the line that was found in it") from None

    @contextlib.asynccontextmanager
    async def _opened(self, begin: Begin, *, follow: bool, **more: str) -> AsyncIterator[aiohttp.StreamReader]:
        path = f"{client.path(Kind.POD, self._sandbox.namespace, resources.pod_name(self._sandbox))}/log"
        parameters = {"container": pods.container(self._sandbox), "timestamps": "true", **more}
        if begin.second is not None:
            parameters["sinceTime"] = log_lines.since(begin.second)
        if follow:
            parameters["follow"] = "true"
        if self._asked.previous:
            parameters["previous"] = "true"
        with rights.granted(self._sandbox.namespace, "get pods/log"), _missing():
            async with self._api.call("GET", path, parameters=parameters, accept="*/*", watch=follow) as response:
                yield response.content

    async def _ended(self, patience: float) -> EndReason | None:
        """Returns why the container has ended, None if it still runs after so many seconds: its status comes late."""
        deadline = asyncio.get_running_loop().time() + patience
        while True:
            pod = await entrance.find_pod(self._api, self._sandbox)
            uid = self._container.name.partition(".")[0]
            if pod is None or pod.metadata.uid != uid or pod.metadata.deletionTimestamp is not None:
                return EndReason.POD_REPLACED
            if _current(pod) != Container(self._container.name, runs=True):
                return EndReason.PROCESS_ENDED
            if asyncio.get_running_loop().time() >= deadline:
                return None
            await asyncio.sleep(self._pace.access_look_most)


class _Lines:
    """Makes chunks of the bytes of a stream, without the lines that its beginning leaves out."""

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._splitter = log_lines.Splitter(engines.LOG_PART)
        self._count = Count(begin.second or 0)
        self._first = True
        self._wanted: int | None = None
        """From which byte on the line is sent, None if it is left out."""
        self._passed = 0
        """How many bytes of the line have passed."""

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """Yields the chunks that are complete by now. Raises `Lost`, and `engines.NoOutput` for words of the kubelet."""
        yield from self._joined(self._splitter.feed(data))

    def end(self) -> Iterator[Chunk]:
        """Yields what is left."""
        yield from self._joined(self._splitter.end())

    def _joined(self, pieces: Iterator[log_lines.Piece]) -> Iterator[Chunk]:
        """Joins the lines of a second."""
        joined: Chunk | None = None
        for piece in pieces:
            chunk = self._chunk(piece)
            if chunk is None:
                continue
            if joined is not None:
                same = joined.time // log_lines.SECOND == chunk.time // log_lines.SECOND
                if same and len(joined.data) + len(chunk.data) <= engines.LOG_PART:
                    chunk = chunk._replace(data=joined.data + chunk.data)
                else:
                    yield joined
            joined = chunk
        if joined is not None:
            yield joined

    def _chunk(self, piece: log_lines.Piece) -> Chunk | None:
        if piece.begins:
            self._passed = 0
            self._wanted = None
            if piece.time is not None:
                self._count.line(piece.time)
                self._wanted = self._begin.wanted(piece.time)
            elif self._first and self._begin.second is None:
                words = piece.data.decode(errors="replace").strip()
                raise engines.NoOutput(f"the kubelet says: {words[:500]}")
            self._first = False
        before = self._passed
        self._passed += len(piece.data)
        if piece.time is None or self._wanted is None or self._passed <= self._wanted:
            return None
        data = piece.data[max(0, self._wanted - before) :]
        return Chunk(data, piece.time, self._count.place(0 if piece.ends else self._passed))


def _container(pod: Object | None, previous: bool) -> Container:
    """Returns the container whose log the kubelet answers with. Raises `engines.NoOutput`."""
    if pod is None:
        raise engines.NoOutput("there is no pod")
    status = containers.own(pod)
    current = _current(pod)
    if not previous:
        if "waiting" in status.state and "terminated" not in status.lastState:
            raise engines.NoOutput("the container has not started")
        return current
    # While the container waits for its restart, its last start is the current one, and the one before is not kept.
    if "terminated" not in status.lastState or "waiting" in status.state:
        raise engines.NoOutput("there was no process before in this pod, or its output is no longer kept")
    return Container(f"{pod.metadata.uid}.{status.restartCount - 1}", runs=False)


def _current(pod: Object) -> Container:
    status = containers.own(pod)
    return Container(f"{pod.metadata.uid}.{status.restartCount}", "running" in status.state)


@contextlib.contextmanager
def _missing() -> Iterator[None]:
    """Raises `engines.NoOutput` where the API server or the kubelet knows no such log."""
    try:
        yield
    except engines.Refused as refused:
        if not rights.forbidden(refused):
            raise engines.NoOutput(str(refused)) from None
        raise
