"""Files in sandboxes, for code without asyncio."""

import functools
import time
from collections.abc import Callable, Generator, Iterator
from typing import Concatenate, ParamSpec, TypeVar

import grpc
from sandbox.v1 import access_pb2 as pb

from sandbox_client import calls, connection, errors, files, outage

P = ParamSpec("P")
T = TypeVar("T")


def _method(make: Callable[P, calls.Call[T]]) -> Callable[Concatenate["Files", P], T]:
    @functools.wraps(make)
    def method(self: "Files", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._link.call(make(*args, **kwargs))

    method.__signature__ = calls.signature(make)  # type: ignore[attr-defined]
    return method


class Files:
    """The files of sandboxes: `client.files`. Methods raise `ServiceError`.

    >>> made = client.create("demo", command=["sleep", "1000"])
    >>> running = client.wait_until(made, "RUNNING")
    >>> written = client.files.write(made, "notes/today.txt", b"hello", parents=True)
    >>> client.files.read(made, "notes/today.txt")
    b'hello'
    >>> [(one.path.rpartition(b"/")[2], one.size) for one in client.files.list(made, "notes")]
    [(b'today.txt', 5)]
    >>> moved = client.files.move(made, "notes/today.txt", "done.txt")
    >>> removed = client.files.remove(made, "notes")
    >>> client.files.stat(made, "done.txt").etag == written.etag
    True
    """

    def __init__(self, link: connection.Connection) -> None:
        self._link = link

    stat = _method(files.stat)
    make_directory = _method(files.make_directory)
    remove = _method(files.remove)
    move = _method(files.move)
    page = _method(files.page)

    def read(
        self,
        sandbox: calls.Named,
        path: files.Where,
        *,
        offset: int = 0,
        limit: int | None = None,
        namespace: str = "",
        timeout: float | None = None,
    ) -> bytes:
        """Returns the content of a file, or `limit` bytes of it from `offset` on."""
        return b"".join(self.parts(sandbox, path, offset=offset, limit=limit, namespace=namespace, timeout=timeout))

    def parts(
        self,
        sandbox: calls.Named,
        path: files.Where,
        *,
        offset: int = 0,
        limit: int | None = None,
        namespace: str = "",
        timeout: float | None = None,
    ) -> Generator[bytes, None, None]:
        """Yields the content of a file in parts, so that a large file needs little memory. Goes on after a lost connection.

        Raises `Aborted` if the file was changed meanwhile: what was read is then of two times. It ends after `timeout`
        seconds, or when the service was not reached for `outage.PATIENCE` seconds.
        """
        position = files.Position(sandbox, path, offset, limit, namespace)
        tries = outage.Tries(timeout, patience=outage.PATIENCE)
        while True:
            stream = self._link.stream("ReadFile", position.request, tries.left())
            try:
                for message in stream:
                    tries.reached()
                    yield position.take(message)
                return
            except grpc.RpcError as error:
                failure = errors.from_rpc(error)
            finally:
                stream.cancel()
            time.sleep(tries.delay(failure))

    def write(
        self,
        sandbox: calls.Named,
        path: files.Where,
        content: files.Content,
        *,
        parents: bool = False,
        mode: int | None = None,
        if_match: str = "",
        namespace: str = "",
        sent: files.Sent = lambda _size: None,
        timeout: float | None = None,
    ) -> pb.FileInfo:
        """Writes a file as a whole. If that fails, the former file stays. A part of the new file is never visible.

        `content` is bytes, or the path of a file of this machine. With `parents` missing directories are made. `if_match`
        is the etag that the former file must have, or `*` for any. `sent` is called with the size of each part.
        """
        first = files.write_request(sandbox, path, content, mode, if_match, namespace)
        if parents and (folder := first.path.rpartition(b"/")[0]):
            self.make_directory(sandbox, folder, parents=True, namespace=namespace)
        tries = outage.Tries(timeout, patience=outage.PATIENCE)
        while True:
            try:
                answer = self._link.stream(
                    "WriteFile", files.messages(first, content, sent), files.seconds(first, tries.left())
                )
            except grpc.RpcError as error:
                failure = errors.from_rpc(error)
                if not isinstance(failure, errors.TimedOut) or tries.left() == 0:
                    time.sleep(tries.delay(failure))
            else:
                return answer.file  # type: ignore[no-any-return]

    def list(
        self, sandbox: calls.Named, path: files.Where, *, namespace: str = "", timeout: float | None = None
    ) -> Iterator[pb.FileInfo]:
        """Yields what is in a directory, in the order of the names, and reads it page by page."""
        token = ""
        while True:
            found = self.page(sandbox, path, page_token=token, namespace=namespace, timeout=timeout)
            yield from found.files
            token = found.next_page_token
            if not token:
                return
