"""A TCP relay before a server, which loses what a network loses: answers, and connections."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa


class Relay:
    """Listens on loopback and passes bytes on to `target`, a port of 127.0.0.1 or a Unix socket."""

    def __init__(self, target: int | Path) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self._open: list[socket.socket] = []
        self._passing = threading.Event()
        self._passing.set()
        self._fatal = b""
        self._left: tuple[int, bool] | None = None
        self._losing = False
        self._threads: set[threading.Thread] = set()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def hold_answers(self) -> None:
        """From now on requests get through and answers do not."""
        self._passing.clear()

    def lose_answer_to(self, request: bytes) -> None:
        """What next has these bytes gets through, and takes effect; with its answer every connection breaks."""
        self._fatal = request

    def cut_after(self, size: int, answers: bool) -> None:
        """Breaks every connection once so many bytes of the answers, or of the requests, have passed. New ones work."""
        self._left = (size, answers)

    def cut(self) -> None:
        """Breaks every connection, with what was held back lost; new ones work."""
        for one in list(self._open):
            _end(one)
        self._passing.set()

    def close(self) -> None:
        # Ending it first wakes the thread that waits in accept.
        _end(self._listener)
        self._accepting.join()
        self._listener.close()
        self.cut()
        for thread in list(self._threads):
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = self._connect()
            except OSError:
                # The target is away: the caller finds a connection that ends at once.
                near.close()
                continue
            self.connections += 1
            self._open += [near, far]
            thread = threading.Thread(target=self._carry, args=(near, far), daemon=True)
            self._threads.add(thread)
            thread.start()

    def _connect(self) -> socket.socket:
        if isinstance(self._target, int):
            return socket.create_connection(("127.0.0.1", self._target))
        far = socket.socket(socket.AF_UNIX)
        try:
            far.connect(str(self._target))
        except OSError:
            far.close()
            raise
        return far

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        """Passes both ways until a side ends, and closes the connection."""
        back = threading.Thread(target=self._pass, args=(far, near, True), daemon=True)
        back.start()
        self._pass(near, far, False)
        back.join()
        for one in (near, far):
            self._open.remove(one)
            one.close()
        self._threads.discard(threading.current_thread())

    def _pass(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if answers:
                    self._passing.wait()
                    if self._losing:
                        self._losing = False
                        self.cut()
                elif self._fatal and self._fatal in data:
                    self._fatal, self._losing = b"", True
                if self._left is not None and self._left[1] == answers:
                    left = self._left[0]
                    self._left = (left - len(data), answers)
                    if left <= len(data):
                        self._left = None
                        sink.sendall(data[:left])
                        self.cut()
                        break
                sink.sendall(data)
        _end(source)
        _end(sink)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def to(target: int | Path) -> Iterator[Relay]:
    relay = Relay(target)
    try:
        yield relay
    finally:
        relay.close()


@contextlib.contextmanager
def postgresql(url: str) -> Iterator[tuple[Relay, str]]:
    """A relay before a PostgreSQL that listens on a Unix socket, and the URL that leads there."""
    direct = sa.make_url(url)
    with to(Path(str(direct.query["host"])) / ".s.PGSQL.5432") as relay:
        host, port = relay.address.split(":")
        far = sa.URL.create("postgresql", direct.username, host=host, port=int(port), database=direct.database)
        yield relay, far.render_as_string()
