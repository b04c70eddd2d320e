"""A relay before the API server that sees what passes, and cuts a connection of pods/exec after a byte of its conversation."""

import asyncio
import contextlib
import ssl
from typing import Self

from tests.kubernetes.cluster import Cluster

EXEC = b"/exec?"
SENT, ANSWERED = "sent", "answered"


class Relay:
    """Use as an async context manager. It has the certificate of the API server.

    `ends` has, by connection of pods/exec since `watch`, after how many bytes each message that was sent or answered has
    ended. A connection counts from its request on: it may have had others before.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._tasks: set[asyncio.Task[None]] = set()
        self.cuts = 0
        self.watch()

    async def __aenter__(self) -> Self:
        folder = self._cluster.folder
        serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        serving.load_cert_chain(folder / "server.crt", folder / "server.key")
        self._asking = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=serving)
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def watch(self, cut: tuple[int, str, int] | None = None) -> None:
        """Counts anew. `cut`: the number of a connection from now on, the direction, and the bytes of it that still pass."""
        self.ends: list[dict[str, list[int]]] = []
        self._cut = cut

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        host, _, port = self._cluster.url.rpartition("/")[2].partition(":")
        far = None
        with contextlib.suppress(OSError, asyncio.CancelledError):
            far_reader, far = await asyncio.open_connection(host, int(port), ssl=self._asking)
            carried = _Carried(self)
            async with asyncio.TaskGroup() as both:
                both.create_task(carried.carry(reader, far, SENT, [writer, far]))
                both.create_task(carried.carry(far_reader, writer, ANSWERED, [writer, far]))
        for one in (writer, far):
            if one is not None:
                one.transport.abort()

    def begun(self) -> int:
        """Returns the number of a connection of pods/exec."""
        self.ends.append({SENT: [0], ANSWERED: [0]})
        return len(self.ends) - 1

    def passes(self, number: int, direction: str, length: int) -> int:
        """Returns how many of so many bytes may pass: fewer than there are if the connection is to be cut."""
        passed = self.ends[number][direction][-1]
        if self._cut is not None and self._cut[:2] == (number, direction) and passed + length > self._cut[2]:
            length = self._cut[2] - passed
            self._cut = None
            self.cuts += 1
        self.ends[number][direction].append(passed + length)
        return length


class _Carried:
    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._ends = relay.ends
        self._number: int | None = None

    async def carry(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: str, both: list[asyncio.StreamWriter]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if direction == SENT and self._number is None and EXEC in data.partition(b"\r\n")[0]:
                    self._number, self._ends = self._relay.begun(), self._relay.ends
                passes = len(data)
                if self._number is not None and self._ends is self._relay.ends:
                    passes = self._relay.passes(self._number, direction, len(data))
                sink.write(data[:passes])
                await sink.drain()
                if passes < len(data):
                    break
        for one in both:
            # What has passed still arrives.
            with contextlib.suppress(OSError, RuntimeError):
                one.close()
