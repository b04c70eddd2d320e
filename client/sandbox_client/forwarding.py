"""Ports of sandboxes on this machine, for code without asyncio."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Self

import grpc
from sandbox.v1 import access_pb2 as pb

from sandbox_client import connection, errors

CHUNK = 64 * 1024
"""Bytes that are read at once."""

Failed = Callable[[errors.ServiceError], None]


class Forward:
    """Listens on this machine, and carries each connection to a port of a sandbox while the context lasts.

    `failed` is called with what ended a connection, for example that nothing listens in the sandbox.
    """

    def __init__(
        self, link: connection.Connection, first: pb.ForwardPortRequest, host: str, port: int, failed: Failed
    ) -> None:
        self._link = link
        self._first = first
        self._failed = failed
        self._listener = socket.create_server((host, port))
        self._port = int(self._listener.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """The port of this machine."""
        return self._port

    def close(self) -> None:
        """Ends every connection, and listens no more."""
        self._closed = True
        _end(self._listener)
        self._listener.close()
        for one in [*self._open]:
            _end(one)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(near)
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        try:
            self._pass_back(near)
        except grpc.RpcError as error:
            self._tell(errors.from_rpc(error))
        except errors.ServiceError as error:
            self._tell(error)
        except OSError:
            # The local program has closed its connection.
            pass
        finally:
            self._open.discard(near)
            # Wakes the thread that reads from it.
            _end(near)
            near.close()

    def _tell(self, error: errors.ServiceError) -> None:
        if not self._closed:
            self._failed(error)

    def _pass_back(self, near: socket.socket) -> None:
        stream = self._link.stream("ForwardPort", self._requests(near), None)
        try:
            for message in stream:
                near.sendall(message.data)
                if message.eof:
                    near.shutdown(socket.SHUT_WR)
        finally:
            stream.cancel()

    def _requests(self, near: socket.socket) -> Iterator[pb.ForwardPortRequest]:
        yield self._first
        with contextlib.suppress(OSError):
            while data := near.recv(CHUNK):
                yield pb.ForwardPortRequest(data=data)
        yield pb.ForwardPortRequest(eof=True)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
