"""The input of an exec, written in calls that can be repeated, for code without asyncio."""

import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Iterator

import grpc
from sandbox.v1 import access_pb2 as pb

from sandbox_client import connection, errors, outage, stdin

_GLANCE = 0.2
"""Seconds for which a call that may have failed keeps the next one waiting."""


class Writer:
    """Writes chunks as they come. They are taken from their iterator in a thread of its own."""

    def __init__(
        self, link: connection.Connection, unaccepted: stdin.Unaccepted, eof: bool, timeout: float | None
    ) -> None:
        self._link = link
        self._unaccepted = unaccepted
        self._eof = eof
        self._tries = outage.Tries(timeout)
        self._coming: queue.Queue[bytes | BaseException | None] = queue.Queue(maxsize=4)
        self._lock = threading.Lock()
        self._complete = False
        self._failure: BaseException | None = None
        self._closed = False
        self._sent: list[pb.WriteStdinRequest] = []

    def write(self, chunks: bytes | Iterable[bytes]) -> None:
        """Returns when all was accepted. Raises `ServiceError`, and what the chunks raise."""
        threading.Thread(target=self._read, args=(chunks,), daemon=True).start()
        try:
            while self._wait():
                self._send()
        finally:
            self._closed = True
        if self._failure is not None:
            raise self._failure

    def _read(self, chunks: bytes | Iterable[bytes]) -> None:
        try:
            for part in stdin.parts(chunks):
                self._put(part)
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: bytes | BaseException | None) -> None:
        """Adds an item to the queue; drops it once the reader of the queue has ended."""
        while not self._closed:
            with contextlib.suppress(queue.Full):
                self._coming.put(item, timeout=stdin.IDLE)
                return

    def _wait(self) -> bool:
        """Waits until there is something to send. Returns False at the end of the stdin. Raises `TimedOut`."""
        with self._lock:
            if self._unaccepted.messages or self._take(self._tries.left()):
                return True
            if not self._complete:
                raise errors.TimedOut("no more input came within the time", grpc.StatusCode.DEADLINE_EXCEEDED)
            return False

    def _take(self, seconds: float | None) -> bool:
        """Takes the next part as a message. Returns False if none comes within the time, or any more."""
        if self._complete:
            return False
        try:
            item = self._coming.get(timeout=seconds)
        except queue.Empty:
            return False
        if isinstance(item, bytes):
            self._unaccepted.add(item, False)
            return True
        self._complete = True
        self._failure = item
        if item is not None or not self._eof:
            return False
        self._unaccepted.add(b"", True)
        return True

    def _take_within(self, seconds: float, sent: list[pb.WriteStdinRequest]) -> bool:
        """Takes the next part for the call that has sent `sent`. Returns False if it comes too late, or another call began."""
        end = time.monotonic() + seconds
        while not self._take(_GLANCE):
            if self._complete or self._sent is not sent or time.monotonic() > end:
                return False
        return True

    def _send(self) -> None:
        """Makes one call. It sends what was not accepted before, and what is added during the call. Waits after a failure."""
        sent = self._sent = []
        try:
            self._link.stream("WriteStdin", self._requests(sent), self._seconds())
        except grpc.RpcError as rpc_error:
            error = errors.from_rpc(rpc_error)
            if isinstance(error, errors.TimedOut) and self._tries.left() != 0:
                return
            if not self._unaccepted.was_accepted(error):
                time.sleep(self._tries.delay(error))
                return
        self._tries.reached()
        with self._lock:
            del self._unaccepted.messages[: len(sent)]

    def _seconds(self) -> float:
        """Returns the seconds for a call."""
        left = self._tries.left()
        return stdin.LONGEST if left is None else min(left, stdin.LONGEST)

    def _requests(self, sent: list[pb.WriteStdinRequest]) -> Iterator[pb.WriteStdinRequest]:
        """Yields the messages of a call.

        gRPC may still wait for the next message of a call that has failed, in a thread: the lock lets one at a time take a
        part, which the others find.
        """
        while len(sent) * stdin.PART < stdin.WINDOW:
            with self._lock:
                if len(sent) >= len(self._unaccepted.messages) and not self._take_within(stdin.IDLE, sent):
                    return
                message = self._unaccepted.messages[min(len(sent), len(self._unaccepted.messages) - 1)]
                sent.append(message)
            yield message
