"""The calls about files in sandboxes: the request of each, and the content in parts. Without I/O on the network."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
from sandbox.v1 import access_pb2 as pb

from sandbox_client import calls, errors, outage

Where = str | bytes | os.PathLike[str]
"""A path in a sandbox. A relative path is relative to /home/agent."""
Content = bytes | Path
"""The content of a file, or a file of this machine that has it. A repeat reads it again."""
Sent = Callable[[int], None]
"""Called with the number of bytes that a message has."""

PART = 64 * 1024
"""Bytes of a message."""
_SLOWEST = 256 * 1024
"""Bytes a second, below which a write is taken to be stuck."""
PAGE = 1000
"""Entries of each page where a directory is listed as a whole."""


def stat(
    sandbox: calls.Named, path: Where, *, follow_link: bool = False, namespace: str = "", timeout: float | None = None
) -> calls.Call[pb.FileInfo]:
    """Returns what there is at a path. Raises `NotFound` for nothing."""
    sandbox_id, namespace = calls.target(sandbox, namespace)
    request = pb.StatFileRequest(
        sandbox_id=sandbox_id, namespace=namespace, path=os.fsencode(path), follow_link=follow_link
    )
    return calls.Call("StatFile", request, "file", timeout)


def make_directory(
    sandbox: calls.Named,
    path: Where,
    *,
    parents: bool = False,
    mode: int | None = None,
    namespace: str = "",
    request_id: str = "",
    timeout: float | None = None,
) -> calls.Call[pb.FileInfo]:
    """Makes a directory. With `parents` those on the way to it too, and it may exist."""
    sandbox_id, namespace = calls.target(sandbox, namespace)
    request = pb.MakeDirectoryRequest(
        sandbox_id=sandbox_id,
        namespace=namespace,
        request_id=request_id or str(uuid.uuid4()),
        path=os.fsencode(path),
        parents=parents,
        mode=mode,
    )
    return calls.Call("MakeDirectory", request, "file", timeout)


def remove(
    sandbox: calls.Named,
    path: Where,
    *,
    recursive: bool = False,
    namespace: str = "",
    request_id: str = "",
    timeout: float | None = None,
) -> calls.Call[pb.RemoveFileResponse]:
    """Removes a file, a link or an empty directory. With `recursive` a directory with everything in it."""
    sandbox_id, namespace = calls.target(sandbox, namespace)
    request = pb.RemoveFileRequest(
        sandbox_id=sandbox_id,
        namespace=namespace,
        request_id=request_id or str(uuid.uuid4()),
        path=os.fsencode(path),
        recursive=recursive,
    )
    return calls.Call("RemoveFile", request, "", timeout)


def move(
    sandbox: calls.Named,
    path: Where,
    to: Where,
    *,
    overwrite: bool = False,
    namespace: str = "",
    request_id: str = "",
    timeout: float | None = None,
) -> calls.Call[pb.FileInfo]:
    """Renames a file, a link or a directory. `to` is its new path, and not a directory to move it into."""
    sandbox_id, namespace = calls.target(sandbox, namespace)
    request = pb.MoveFileRequest(
        sandbox_id=sandbox_id,
        namespace=namespace,
        request_id=request_id or str(uuid.uuid4()),
        path=os.fsencode(path),
        to=os.fsencode(to),
        overwrite=overwrite,
    )
    return calls.Call("MoveFile", request, "file", timeout)


def page(
    sandbox: calls.Named,
    path: Where,
    *,
    page_size: int = PAGE,
    page_token: str = "",
    namespace: str = "",
    timeout: float | None = None,
) -> calls.Call[pb.ListFilesResponse]:
    """Returns a page of a directory, and the token of the next page."""
    sandbox_id, namespace = calls.target(sandbox, namespace)
    request = pb.ListFilesRequest(
        sandbox_id=sandbox_id, namespace=namespace, path=os.fsencode(path), page_size=page_size, page_token=page_token
    )
    return calls.Call("ListFiles", request, "", timeout)


def write_request(
    sandbox: calls.Named, path: Where, content: Content, mode: int | None, if_match: str, namespace: str
) -> pb.WriteFileRequest:
    """Returns the first message of a write. Raises OSError for a file of this machine that cannot be read."""
    sandbox_id, namespace = calls.target(sandbox, namespace)
    return pb.WriteFileRequest(
        sandbox_id=sandbox_id,
        namespace=namespace,
        request_id=str(uuid.uuid4()),
        path=os.fsencode(path),
        mode=mode,
        size=len(content) if isinstance(content, bytes) else content.stat().st_size,
        if_match=if_match,
    )


def seconds(first: pb.WriteFileRequest, left: float | None) -> float:
    """Returns the seconds for a try of a write. Then it is made again, if time is left: it may be stuck."""
    enough = outage.PATIENCE + first.size / _SLOWEST
    return enough if left is None else min(enough, left)


def messages(first: pb.WriteFileRequest, content: Content, sent: Sent) -> Iterator[pb.WriteFileRequest]:
    """Yields the messages of a write."""
    yield first
    for part in _parts(content):
        sent(len(part))
        yield pb.WriteFileRequest(data=part)


def _parts(content: Content) -> Iterator[bytes]:
    if isinstance(content, bytes):
        for begin in range(0, len(content), PART):
            yield content[begin : begin + PART]
        return
    with content.open("rb") as file:
        while part := file.read(PART):
            yield part


class Position:
    """How far a file was read, from where reading goes on after a cut unless the file has changed."""

    def __init__(self, sandbox: calls.Named, path: Where, offset: int, limit: int | None, namespace: str) -> None:
        sandbox_id, namespace = calls.target(sandbox, namespace)
        self.request = pb.ReadFileRequest(
            sandbox_id=sandbox_id, namespace=namespace, path=os.fsencode(path), offset=offset, limit=limit
        )
        self._etag = ""

    def take(self, message: pb.ReadFileResponse) -> bytes:
        """Returns the content of a message, and moves the position behind it. Raises `errors.Aborted`."""
        if message.WhichOneof("event") == "file":
            if self._etag not in ("", message.file.etag):
                raise errors.Aborted(
                    "the file was changed while it was read: read it again", grpc.StatusCode.ABORTED, "FILE_CHANGED"
                )
            self._etag = message.file.etag
        self.request.offset += len(message.data)
        if self.request.HasField("limit"):
            self.request.limit -= len(message.data)
        return message.data
